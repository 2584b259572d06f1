"""Models to ONNX files, as ``torch.onnx`` writes them."""

from .onnx_export.errors import ExportError as ExportError
from .onnx_export.export import export as export

__all__ = ["ExportError", "export"]
