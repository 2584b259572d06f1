"""One example of each function that is a Tensor method: ``functions`` adds it to the method's words."""

from __future__ import annotations

_ROWS = """
abs | abs(p.tensor([-1.5, 2.0])) | tensor([1.5, 2. ])
exp | exp(p.tensor([0.0, 1.0])) | tensor([1.    , 2.7183])
expm1 | expm1(p.tensor([0.0, 1.0])) | tensor([0.    , 1.7183])
log | log(p.tensor([1.0, 2.0])) | tensor([0.    , 0.6931])
log2 | log2(p.tensor([1.0, 8.0])) | tensor([0., 3.])
log10 | log10(p.tensor([1.0, 100.0])) | tensor([0., 2.])
log1p | log1p(p.tensor([0.0, 1.0])) | tensor([0.    , 0.6931])
sqrt | sqrt(p.tensor([4.0, 9.0])) | tensor([2., 3.])
rsqrt | rsqrt(p.tensor([4.0, 16.0])) | tensor([0.5 , 0.25])
square | square(p.tensor([-3.0, 2.0])) | tensor([9., 4.])
reciprocal | reciprocal(p.tensor([2.0, 4.0])) | tensor([0.5 , 0.25])
sin | sin(p.tensor([0.0, 1.0])) | tensor([0.    , 0.8415])
cos | cos(p.tensor([0.0, 1.0])) | tensor([1.    , 0.5403])
tan | tan(p.tensor([0.0, 1.0])) | tensor([0.    , 1.5574])
atan | atan(p.tensor([0.0, 1.0])) | tensor([0.    , 0.7854])
erf | erf(p.tensor([0.0, 1.0])) | tensor([0.    , 0.8427])
tanh | tanh(p.tensor([0.0, 1.0])) | tensor([0.    , 0.7616])
sigmoid | sigmoid(p.tensor([0.0, 2.0])) | tensor([0.5   , 0.8808])
relu | relu(p.tensor([-1.0, 2.0])) | tensor([0., 2.])
gelu | gelu(p.tensor([-1.0, 2.0])) | tensor([-0.1587,  1.9545])
sign | sign(p.tensor([-3.0, 0.0, 2.0])) | tensor([-1.,  0.,  1.])
floor | floor(p.tensor([-1.5, 1.5])) | tensor([-2.,  1.])
ceil | ceil(p.tensor([-1.5, 1.5])) | tensor([-1.,  2.])
trunc | trunc(p.tensor([-1.5, 1.5])) | tensor([-1.,  1.])
neg | neg(p.tensor([1.0, -2.0])) | tensor([-1.,  2.])
isnan | isnan(p.tensor([1.0, float("nan")])) | tensor([False,  True])
isinf | isinf(p.tensor([1.0, -float("inf")])) | tensor([False,  True])
isfinite | isfinite(p.tensor([1.0, float("nan"), float("inf")])) | tensor([ True, False, False])
logical_not | logical_not(p.tensor([True, False])) | tensor([False,  True])
logical_and | logical_and(p.tensor([True, False]), p.tensor([True, True])) | tensor([ True, False])
logical_or | logical_or(p.tensor([True, False]), p.tensor([False, False])) | tensor([ True, False])
logical_xor | logical_xor(p.tensor([True, False]), p.tensor([True, True])) | tensor([False,  True])
maximum | maximum(p.tensor([1.0, 5.0]), p.tensor([3.0, 2.0])) | tensor([3., 5.])
minimum | minimum(p.tensor([1.0, 5.0]), p.tensor([3.0, 2.0])) | tensor([1., 2.])
clamp | clamp(p.tensor([-2.0, 0.5, 2.0]), -1, 1) | tensor([-1. ,  0.5,  1. ])
clamp_min | clamp_min(p.tensor([-2.0, 2.0]), 0) | tensor([0., 2.])
clamp_max | clamp_max(p.tensor([-2.0, 2.0]), 0) | tensor([-2.,  0.])
lerp | lerp(p.tensor([0.0]), p.tensor([10.0]), 0.25) | tensor([2.5])
masked_fill | masked_fill(p.tensor([1.0, 2.0]), p.tensor([True, False]), 0.0) | tensor([0., 2.])
sum | sum(p.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=1) | tensor([3., 7.])
mean | mean(p.tensor([[1.0, 2.0], [3.0, 4.0]]), dim=0) | tensor([2., 3.])
prod | prod(p.tensor([2.0, 3.0, 4.0])) | tensor(24.)
var | var(p.tensor([1.0, 2.0, 3.0])) | tensor(1.)
std | std(p.tensor([1.0, 2.0, 3.0])) | tensor(1.)
max | max(p.tensor([[1.0, 4.0], [3.0, 2.0]]), 1) | ValuesIndices(values=tensor([4., 3.]), indices=tensor([1, 0]))
min | min(p.tensor([3.0, 1.0, 2.0])) | tensor(1.)
amax | amax(p.tensor([[1.0, 4.0], [3.0, 2.0]]), dim=(0, 1)) | tensor(4.)
amin | amin(p.tensor([[1.0, 4.0], [3.0, 2.0]]), dim=0) | tensor([1., 2.])
argmax | argmax(p.tensor([[1.0, 4.0], [3.0, 2.0]]), dim=1) | tensor([1, 0])
argmin | argmin(p.tensor([3.0, 1.0, 2.0])) | tensor(1)
any | any(p.tensor([[False, True], [False, False]]), dim=1) | tensor([ True, False])
all | all(p.tensor([True, False])) | tensor(False)
cumsum | cumsum(p.tensor([1.0, 2.0, 3.0]), 0) | tensor([1., 3., 6.])
logsumexp | logsumexp(p.tensor([1000.0, 1000.0]), 0) | tensor(1000.6932)
softmax | softmax(p.tensor([0.0, 1.0]), dim=0) | tensor([0.2689, 0.7311])
log_softmax | log_softmax(p.tensor([0.0, 1.0]), dim=0) | tensor([-1.3133, -0.3133])
sort | sort(p.tensor([3.0, 1.0, 2.0]), descending=True) | ValuesIndices(values=tensor([3., 2., 1.]), indices=tensor([0, 2, 1]))
argsort | argsort(p.tensor([3.0, 1.0, 2.0])) | tensor([1, 2, 0])
topk | topk(p.tensor([3.0, 1.0, 2.0]), 2).values | tensor([3., 2.])
matmul | matmul(p.ones(2, 3), p.ones(3)).tolist() | [3.0, 3.0]
flatten | flatten(p.zeros(2, 3, 4), 1).shape | (2, 12)
unflatten | unflatten(p.zeros(2, 6), 1, (2, 3)).shape | (2, 2, 3)
ravel | ravel(p.tensor([[1, 2], [3, 4]])) | tensor([1, 2, 3, 4])
transpose | transpose(p.zeros(2, 3, 4), 0, 2).shape | (4, 3, 2)
movedim | movedim(p.zeros(2, 3, 4), 0, -1).shape | (3, 4, 2)
t | t(p.tensor([[1, 2], [3, 4]])).tolist() | [[1, 3], [2, 4]]
adjoint | adjoint(p.zeros(2, 3, 4)).shape | (2, 4, 3)
squeeze | squeeze(p.zeros(2, 1, 3)).shape | (2, 3)
unsqueeze | unsqueeze(p.zeros(2, 3), 0).shape | (1, 2, 3)
broadcast_to | broadcast_to(p.tensor([1, 2]), (2, 2)).tolist() | [[1, 2], [1, 2]]
repeat_interleave | repeat_interleave(p.tensor([1, 2]), 2) | tensor([1, 1, 2, 2])
roll | roll(p.tensor([1, 2, 3]), 1) | tensor([3, 1, 2])
narrow | narrow(p.arange(5), 0, 1, 3) | tensor([1, 2, 3])
select | select(p.tensor([[1, 2], [3, 4]]), 1, 0) | tensor([1, 3])
unbind | unbind(p.tensor([[1, 2], [3, 4]])) | (tensor([1, 2]), tensor([3, 4]))
chunk | chunk(p.arange(4), 2) | (tensor([0, 1]), tensor([2, 3]))
gather | gather(p.tensor([[1, 2], [3, 4]]), 1, p.tensor([[1], [0]])).tolist() | [[2], [3]]
index_select | index_select(p.tensor([[1, 2], [3, 4]]), 0, p.tensor([1, 1])).tolist() | [[3, 4], [3, 4]]
masked_select | masked_select(p.tensor([1, 2, 3]), p.tensor([True, False, True])) | tensor([1, 3])
nonzero | nonzero(p.tensor([0, 5, 7])).tolist() | [[1], [2]]
tril | tril(p.ones(2, 2)).tolist() | [[1.0, 0.0], [1.0, 1.0]]
triu | triu(p.ones(2, 2), 1).tolist() | [[0.0, 1.0], [0.0, 0.0]]
diag | diag(p.tensor([1, 2])).tolist() | [[1, 0], [0, 2]]
clone | clone(p.tensor([1.0, 2.0])) | tensor([1., 2.])
detach | detach(p.ones(1, requires_grad=True)).requires_grad | False
numel | numel(p.zeros(2, 3)) | 6
is_floating_point | is_floating_point(p.tensor([1])) | False
"""
"""name | call, in which p stands for phalanx | what it prints."""


def _examples() -> dict[str, str]:
    found = {}
    for row in _ROWS.strip().splitlines():
        name, call, printed = row.split(" | ")
        found[name] = f">>> phalanx.{call.replace('p.', 'phalanx.')}\n{printed}"
    return found


EXAMPLES = _examples()
"""Name of a function -> its example, as a doctest."""
