"""How ONNX says each op, by family. What has no rule here is refused by name."""

from . import arithmetic as arithmetic
from . import layers as layers
from . import picking as picking
from . import recurrent as recurrent
from . import reduce as reduce
from . import shape as shape
from . import window as window
