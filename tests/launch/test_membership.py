"""What the launcher of an elastic job decides, without a process: losses, newcomers, quarrels, waiting, and random histories."""

import random

import pytest

from phalanx.launch.decisions import End, Kill, Say, Tell, expelled
from phalanx.launch.membership import FORM_S, Membership
from phalanx.launch.roster import Limits, Slot, State


class Ranks:
    """Ranks that do what they are told at once, around a membership. ``now`` moves by hand."""

    def __init__(self, limits, count, nodes=1):
        self.one = Membership(limits, [Slot(n, f"h{n % nodes}", n % nodes) for n in range(count)])
        self.now, self.told, self.said, self.ended, self.killed = 0.0, [], [], None, []
        self.deaf = set()
        """Slots that do not obey."""

    def turn(self, seconds=0.1, silent=()):
        self.now += seconds
        self.one.tick(self.now, silent)
        while actions := self.one.take():
            for action in actions:
                self.do(action)
            self.one.tick(self.now, silent)

    def do(self, action):
        match action:
            case Tell(slot, message):
                self.told.append((slot, dict(message)))
                if slot not in self.deaf:
                    self.obey(slot, message)
            case Kill(slot, why):
                self.killed.append(slot)
                self.one.lose({slot: why}, self.now)
            case Say(text):
                self.said.append(text)
            case End(code, text):
                self.ended = code, text

    def obey(self, slot, message):
        kind, generation = message["kind"], message.get("generation")
        if kind == "generation":
            if message["rank"] == 0:
                self.hear(slot, kind="serving", generation=generation, address="a:1")
            self.hear(slot, kind="formed", generation=generation, step=3, repeats=False, stall_s=0.5)
            if message["wait"]:
                self.hear(slot, kind="not saved", why="there is no Checkpointer")
        elif kind == "regroup":
            self.hear(slot, kind="boundary", generation=generation)

    def hear(self, slot, **message):
        self.one.hear(slot, message, self.now)

    def newcomer(self, number, ready=True):
        self.one.add(Slot(number, "h0"))
        if ready:
            self.hear(number, kind="ready")

    def generation(self, slot):
        """The last membership that a slot was told."""
        return next(
            message for whom, message in reversed(self.told) if whom == slot and message["kind"] == "generation"
        )


def test_a_loss_while_a_generation_forms_makes_a_newer_one_and_one_line():
    ranks = Ranks(Limits(1, 4), 4)
    ranks.deaf = {0}
    ranks.one.lose({1: "killed by SIGKILL"}, 0.0)
    ranks.turn()
    assert ranks.one.generation == 1 and ranks.generation(0)["bind"] == "127.0.0.1"
    assert not any(slot in (2, 3) and message["kind"] == "generation" for slot, message in ranks.told)  # no address yet
    ranks.hear(0, kind="formed", generation=0)  # of an older one: void
    ranks.one.lose({0: "killed by SIGSEGV"}, ranks.now)
    ranks.deaf = set()
    ranks.turn()
    assert ranks.one.members == [2, 3] and ranks.generation(3)["rendezvous"] == "a:1"
    assert ranks.said == [
        "generation 2: 2 ranks; rank 0 was lost: killed by SIGSEGV; rank 1 was lost: killed by SIGKILL; after step 3; "
        "went on after 0.5 s".replace("rank 0 was lost", "rank 0 (host h0) was lost").replace(
            "rank 1 was", "rank 1 (host h0) was"
        )
    ]


def test_newcomers_come_after_the_others_and_only_between_two_steps():
    ranks = Ranks(Limits(1, 3), 2)
    ranks.newcomer(2, ready=False)
    ranks.turn()
    assert ranks.one.generation == 0
    ranks.deaf = {1}
    ranks.hear(2, kind="ready")
    ranks.turn()
    assert ranks.one.generation == 0 and (1, {"kind": "regroup", "generation": 0}) in ranks.told
    ranks.one.lose({0: "killed by SIGKILL"}, ranks.now)  # in the middle of a step: nobody joins
    ranks.turn()
    assert ranks.one.members == [1]
    ranks.deaf = set()
    ranks.obey(1, ranks.generation(1))
    ranks.turn()
    assert ranks.one.members == [1, 2] and ranks.generation(2)["newcomers"] == [1] == ranks.generation(1)["newcomers"]
    assert (
        ranks.one.state()
        == "elastic, 1 to 3 ranks: generation 2 with 2 ranks: rank 0 [1] (host h0), rank 1 [2] (host h0)"
    )


def test_a_rank_that_has_finished_is_not_waited_for_and_not_lost():
    ranks = Ranks(Limits(1, 4), 3)
    ranks.deaf = {0, 1, 2}
    ranks.newcomer(3)
    ranks.turn()
    for slot in (0, 1):
        ranks.obey(slot, {"kind": "regroup", "generation": 0})
    ranks.turn()
    assert ranks.one.generation == 0
    ranks.one.finish(2, ranks.now)  # the others have said that they stand between two steps
    ranks.turn()
    assert ranks.one.members == [0, 1, 3]
    ranks.deaf = set()
    for slot in (0, 1):
        ranks.obey(slot, ranks.generation(0) | {"rank": slot})
    ranks.one.finish(3, ranks.now)
    ranks.turn()
    assert len(ranks.said) == 1 and "lost" not in ranks.said[0] and ranks.one.present() == [0, 1]


def test_words_about_an_older_generation_are_void_and_a_doomed_one_is_not_told():
    ranks = Ranks(Limits(1, 4), 4)
    ranks.deaf = {0, 1, 2, 3}
    ranks.one.lose({3: "killed by SIGKILL"}, 0.0)
    for slot in range(3):
        ranks.hear(slot, kind="formed", generation=0, step=1, repeats=False, stall_s=0.0)
    ranks.turn()
    assert ranks.one.generation == 1
    ranks.hear(1, kind="lost", generation=0, ranks=[2], why=["no answer"])
    ranks.hear(0, kind="failed", generation=0, why="no")
    ranks.turn(2.0)
    assert ranks.one.generation == 1 and not ranks.killed and not ranks.said
    for slot in (0, 1):
        ranks.hear(slot, kind="formed", generation=1, step=1, repeats=False, stall_s=0.0)
    ranks.one.lose({2: "killed by SIGKILL"}, ranks.now)
    ranks.hear(0, kind="formed", generation=1, step=1, repeats=False, stall_s=0.0)
    assert ranks.one.generation == 1
    ranks.turn()
    assert ranks.one.generation == 2 and not ranks.said


def test_what_was_said_of_a_rank_counts_in_its_generation_only():
    ranks = Ranks(Limits(1, 4), 4)
    ranks.hear(1, kind="lost", generation=0, ranks=[2], why=["no answer"])
    ranks.turn(0.5)
    ranks.one.lose({3: "killed by SIGKILL"}, ranks.now)
    ranks.turn()
    ranks.turn(3.0)
    assert ranks.one.members == [0, 1, 2] and not ranks.killed  # they came together


def test_nobody_is_asked_to_regroup_for_newcomers_that_are_too_many():
    ranks = Ranks(Limits(1, 2), 2)
    ranks.newcomer(2)
    ranks.turn()
    assert ranks.one.generation == 0 and not ranks.told
    ranks.one.lose({0: "killed by SIGKILL"}, ranks.now)
    ranks.turn()
    ranks.turn()
    assert ranks.one.members == [1, 2]


def test_no_more_than_the_greatest_number_join_and_a_newcomer_that_does_not_come_is_ended():
    ranks = Ranks(Limits(1, 3), 2)
    ranks.deaf = {2}
    ranks.newcomer(2)
    ranks.newcomer(3)
    ranks.turn()
    assert ranks.one.members == [0, 1, 2] and ranks.one.newcomers() == [3] and ranks.one.is_new(2)
    ranks.turn(FORM_S)
    assert ranks.killed == [2]
    ranks.turn()
    ranks.turn()
    assert ranks.one.members == [0, 1, 3] and not ranks.one.is_new(3)


def test_when_those_who_have_the_state_are_lost_newcomers_cannot_go_on():
    ranks = Ranks(Limits(1, 2), 1)
    ranks.deaf = {0, 1}
    ranks.newcomer(1)
    ranks.turn()
    ranks.obey(0, {"kind": "regroup", "generation": 0})
    ranks.turn()
    assert ranks.one.members == [0, 1]
    ranks.one.lose({0: "killed by SIGKILL"}, ranks.now)
    ranks.turn()
    assert ranks.ended == (1, "only newcomers are left, and nobody who has the state: the job ends")


def test_a_newcomer_that_has_the_state_goes_on_although_the_others_died_before_they_said_so():
    ranks = Ranks(Limits(1, 3), 1)
    ranks.deaf = {0, 1, 2}
    ranks.newcomer(1)
    ranks.newcomer(2)
    ranks.turn()
    ranks.obey(0, {"kind": "regroup", "generation": 0})
    ranks.turn()
    assert ranks.one.members == [0, 1, 2]
    ranks.one.lose({0: "killed by SIGKILL"}, ranks.now)
    ranks.hear(2, kind="formed", generation=1, step=3, repeats=False, stall_s=0.1)  # said before, heard after
    ranks.deaf = set()
    ranks.turn()
    assert ranks.ended is None and ranks.one.members == [2, 1] and not ranks.one.is_new(2)
    assert ranks.generation(2)["newcomers"] == [1] == ranks.generation(1)["newcomers"]
    assert ranks.said[0] == "rank 2 joined"
    assert ranks.said[1].startswith(
        "generation 2: 2 ranks; rank 0 (host h0) was lost: killed by SIGKILL; rank 1 joined;"
    )


def test_below_the_least_number_the_job_waits_and_then_ends_or_goes_on():
    ranks = Ranks(Limits(3, 4, wait_s=10.0), 3)
    ranks.one.lose({1: "killed by SIGKILL"}, 0.0)
    ranks.turn()
    assert ranks.generation(0)["wait"] and "not saved (there is no Checkpointer); waiting for more ranks" in ranks.said
    ranks.deaf = {0, 2}
    ranks.one.lose({2: "killed by SIGKILL"}, ranks.now)
    ranks.turn()
    ranks.hear(0, kind="formed", generation=2, step=3, repeats=False, stall_s=0.5)
    ranks.newcomer(3)
    ranks.newcomer(4)
    ranks.turn()
    assert ranks.one.members == [0] and ranks.one.generation == 2  # it saves
    ranks.deaf = set()
    ranks.obey(0, ranks.generation(0))
    ranks.turn()
    assert ranks.one.members == [0, 3, 4] and not ranks.one.waiting and not ranks.generation(3)["wait"]
    ranks.one.lose({0: "killed by SIGKILL"}, ranks.now)
    ranks.turn()
    ranks.turn(9.0)
    assert ranks.ended is None
    ranks.one.lose({4: "killed by SIGKILL"}, ranks.now)  # the time does not begin anew
    ranks.turn(1.0)
    assert ranks.ended is not None and ranks.ended[0] == 75
    assert ranks.told[-1][1]["kind"] == "end" and ranks.told[-1][1]["code"] == 75


def test_a_job_that_is_asked_to_stop_does_not_wait():
    ranks = Ranks(Limits(2, 2, stop_code=9), 2)
    ranks.one.lose({1: "killed by SIGKILL"}, 0.0)
    ranks.turn()
    ranks.one.leave()
    ranks.turn()
    assert ranks.ended is not None and ranks.ended[0] == 9
    ranks = Ranks(Limits(2, 2), 2)
    ranks.one.leave()
    ranks.one.lose({1: "killed by SIGKILL"}, 0.0)
    ranks.turn()
    assert ranks.ended is None and not ranks.generation(0)["wait"]


def test_a_generation_that_cannot_be_formed_is_tried_again_but_not_for_ever():
    ranks = Ranks(Limits(1, 2), 2)
    ranks.deaf = {0, 1}
    ranks.one.lose({1: "killed by SIGKILL"}, 0.0)
    for _ in range(10):
        ranks.turn(1.0)
        ranks.hear(0, kind="failed", generation=ranks.one.generation, why="no")
    assert ranks.ended == (1, "5 generations in a row could not be formed: the job ends")


def test_a_loss_is_decided_at_once_and_begins_the_count_of_failures_anew():
    ranks = Ranks(Limits(1, 9), 9)
    ranks.deaf = set(range(9))
    for slot in range(8, 0, -1):
        ranks.one.lose({slot: "killed by SIGKILL"}, ranks.now)
        ranks.turn()
        ranks.hear(0, kind="failed", generation=ranks.one.generation, why="no")
    assert ranks.one.generation == 8 and ranks.ended is None


def test_a_quarrel_waits_for_the_others_words_and_for_silent_hosts():
    ranks = Ranks(Limits(1, 4), 4, nodes=2)
    ranks.hear(1, kind="lost", generation=0, ranks=[0], why=["no answer"])
    ranks.turn(0.9)
    assert not ranks.killed
    ranks.turn(0.2, silent=[1, 3])  # its host may be lost: that is another matter
    assert not ranks.killed
    ranks.turn(0.5)
    ranks.turn()
    assert ranks.killed == [1, 3] and ranks.one.members == [0, 2]  # as many on each side: rank 0's stays
    ranks.hear(2, kind="lost", generation=ranks.one.generation, ranks=[0], why=["no answer"])
    ranks.one.lose({2: "killed by SIGKILL"}, ranks.now)  # it has died meanwhile: nothing is left to be judged
    ranks.turn(2.0)
    assert ranks.killed == [1, 3] and ranks.one.members == [0]


@pytest.mark.parametrize(
    ("pairs", "gone"),
    [
        ([(0, 3), (1, 3)], [3]),
        ([(3, 0), (3, 1), (3, 2)], [3]),
        ([(1, 2)], [2]),
        ([(0, 1), (1, 2), (2, 0)], [1, 2]),
        ([(0, 0)], []),
    ],
)
def test_who_must_leave_of_one_host(pairs, gone):
    assert [number for number, _ in expelled(pairs, [0, 1, 2, 3], dict.fromkeys(range(4), 0))] == gone


def test_the_smaller_side_of_a_cut_leaves():
    nodes = {0: 0, 1: 1, 2: 1, 3: 1}
    assert [number for number, _ in expelled([(0, 2)], [0, 1, 2, 3], nodes)] == [0]


def test_random_histories_end_with_all_who_are_left_in_one_generation():
    """Whatever is lost, comes, finishes or quarrels, and in whatever order it is heard."""
    for seed in range(1000):
        draw = random.Random(seed)
        ranks = Ranks(Limits(1, 5, wait_s=1e9), 4, nodes=2)
        next_slot = 4
        for _ in range(draw.randrange(1, 12)):
            present = ranks.one.present()
            deed = draw.choice(("lose", "join", "quarrel", "deaf", "turn"))
            if deed == "lose" and len(present) > 1:
                ranks.one.lose({draw.choice(present): "killed by SIGKILL"}, ranks.now)
            elif deed == "join" and len(present) + len(ranks.one.newcomers()) < 5:
                ranks.newcomer(next_slot)
                next_slot += 1
            elif deed == "quarrel" and len(present) > 2:
                words = draw.sample(range(len(ranks.one.members)), 1)
                ranks.hear(draw.choice(present), kind="lost", generation=ranks.one.generation, ranks=words, why=["?"])
            elif deed == "deaf":
                slot = draw.choice(present)
                ranks.deaf.add(slot)
                ranks.turn(draw.random())
                ranks.deaf.discard(slot)
                for whom, message in list(ranks.told):
                    if whom == slot:
                        ranks.obey(slot, message)
            ranks.turn(draw.random())
        for _ in range(4):
            ranks.turn(2.0)
        assert ranks.ended is None or "newcomers" in ranks.ended[1], (seed, ranks.ended)
        if ranks.ended is None:
            left = {number for number, slot in ranks.one._slots.items() if slot.state is State.MEMBER}
            assert left and ranks.one.present() == ranks.one.members and left == set(ranks.one.members), seed
            assert not ranks.one.newcomers() and ranks.one.settled, seed
            if ranks.one.generation:
                told = {(ranks.generation(number)["generation"], ranks.generation(number)["rank"]) for number in left}
                assert told == {(ranks.one.generation, rank) for rank in range(len(left))}, seed
