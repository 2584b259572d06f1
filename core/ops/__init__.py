"""The ops, by family: each file holds forwards and their vector-Jacobian products side by side."""

from . import activation as activation
from . import arithmetic as arithmetic
from . import attention as attention
from . import conv as conv
from . import ctc as ctc
from . import dropout as dropout
from . import elementary as elementary
from . import embedding as embedding
from . import fused as fused
from . import gather_shards as gather_shards
from . import indexing as indexing
from . import linalg as linalg
from . import linear as linear
from . import loss as loss
from . import matmul as matmul
from . import norm as norm
from . import pad as pad
from . import placing as placing
from . import pool as pool
from . import recurrent as recurrent
from . import reduce as reduce
from . import resample as resample
from . import running as running
from . import shape as shape
from . import softmax as softmax
from . import sync_norm as sync_norm
