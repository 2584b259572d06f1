"""The hosts of an elastic job with their slots, and starting newcomers on them while the others run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ..dist import env
from ..dist.host import common_network
from ..dist.member import LOOPBACK
from .hosts import Host
from .link import Link, RemoteRank
from .local import start_rank
from .over_hosts import follow
from .plan import THREAD_VARIABLES, LaunchPlan, RankPlan
from .process import Job, Runs
from .roster import Slot


@dataclass(slots=True)
class Post:
    """A host of the job: what runs in each of its slots."""

    host: Host
    node: int
    link: Link | None = None
    """None: this machine."""
    taken: dict[int, int] = field(default_factory=dict)
    """Which of the host's places has which slot of the job."""
    cut_off: bool = False
    """Could others not reach it? Then nothing is started there until somebody names it."""

    @property
    def up(self) -> bool:
        return self.link is None or (self.link.open and bool(self.link.hello))

    def free(self) -> int:
        return self.host.slots - len(self.taken) if self.up else 0


class Crew:
    """What runs where, and what can be started."""

    def __init__(self, plan: LaunchPlan, job: Job, posts: list[Post]) -> None:
        self._plan, self._job = plan, job
        self.posts = posts
        self._next = len(plan.ranks)
        by_name = {post.host.name: post for post in posts}
        for rank in plan.ranks:
            by_name[rank.host].taken[rank.slot] = rank.rank

    def leave(self, number: int) -> None:
        """A slot's process has ended: its place is free."""
        for post in self.posts:
            post.taken = {place: slot for place, slot in post.taken.items() if slot != number}

    def post_of(self, number: int) -> Post:
        return next(post for post in self.posts if number in post.taken.values())

    def somewhere(self) -> Post | None:
        """The first host that has a free place."""
        return next((post for post in self.posts if post.free() > 0 and not post.cut_off), None)

    def start(self, post: Post, rank: int) -> tuple[Slot, Runs]:
        """A newcomer on a free place of ``post``; ``rank``: the lowest that it could get."""
        number, self._next = self._next, self._next + 1
        place = min(set(range(post.host.slots)) - post.taken.keys())
        post.taken[place] = number
        plan = self._newcomer(post, place, number, rank)
        process = start_rank(plan, self._plan.environ, self._job) if post.link is None else self._far(post.link, plan)
        return Slot(number, post.host.name, post.node), process

    def _far(self, link: Link, plan: RankPlan) -> RemoteRank:
        process = link.remote_ranks[plan.rank] = RemoteRank(link, plan.rank)
        self._job.processes.append(process)
        link.start([plan], elastic=True)
        return process

    def _newcomer(self, post: Post, place: int, number: int, rank: int) -> RankPlan:
        beside = [plan for plan in self._plan.ranks if plan.host == post.host.name]
        like = (beside or self._plan.ranks)[0]
        found = env.read(like.environment)
        assert found is not None
        mine = replace(  # by its place among the host's it chooses a GPU: that of whoever had it before
            found, rank=rank, size=max(rank, place) + 1, local_rank=place, local_size=place + 1, node=post.node,
            rendezvous_fd=None, hosts=None,
        )  # fmt: skip
        left_out = (*env.NAMES.values(), env.PROGRESS)
        environment = {name: value for name, value in like.environment.items() if name not in left_out}
        if not beside and post.link is not None and post.link.hello:
            share = str(max(1, post.link.hello["cores"] // post.host.slots))
            environment |= {name: share for name in THREAD_VARIABLES if name in environment}
        cores = next((plan.cores for plan in beside if plan.slot == place), ())
        environment |= env.write(mine) | {env.NEWCOMER: "1"}
        return RankPlan(number, post.host.name, environment, like.command, cores, place)

    # --- hosts ------------------------------------------------------------------------------------------------------

    def links(self) -> list[tuple[Post, Link]]:
        return [(post, post.link) for post in self.posts if post.link is not None]

    def add_host(self, host: Host, environ: Mapping[str, str]) -> Post:
        """Begin to reach another host; :attr:`Post.up` once it has answered."""
        first = next(link for _, link in self.links())
        node = 1 + max(post.node for post in self.posts)
        post = Post(host, node, Link(host, node, first.remote, environ))
        self.posts.append(post)
        return post

    def admit(self, post: Post) -> None:
        """The host has answered: its agent's connection is the job's."""
        assert post.link is not None
        follow(post.link, self._job)

    def addresses(self) -> dict[int, str]:
        """Node -> where its ranks can listen for the others."""
        up = [(post, link.hello or {}) for post, link in self.links() if post.up]
        if len({hello["identity"] for _, hello in up}) <= 1:
            return {post.node: LOOPBACK for post, _ in up}
        networks = {post.node: dict(hello["networks"]) for post, hello in up}
        common = common_network(list(networks.values()))
        found = {node: mine.get(common or "") or next(iter(mine.values()), None) for node, mine in networks.items()}
        return {node: address for node, address in found.items() if address}

    def close(self) -> None:
        """End the connections, and with them whatever runs on the hosts."""
        for _, link in self.links():
            link.close()
