"""Everything that computes on images; import this package before timm, diffusers or torchvision."""

import importlib.util
from importlib.machinery import PathFinder

import torch

NMS_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _has_torchvision_operators() -> bool:
    """Load torchvision's compiled operators the way torchvision will, but before its Python code needs them."""
    package = importlib.util.find_spec("torchvision")
    extension = PathFinder.find_spec("_C", package.submodule_search_locations) if package else None
    if extension is None or extension.origin is None:
        return False
    try:
        torch.ops.load_library(extension.origin)
    except OSError:
        return False
    return True


def _declare_missing_operators() -> torch.library.Library | None:
    """Let a torchvision built for CUDA import beside a CPU torch.

    Its operators cannot load there, and its import then fails on describing `nms`, which nothing here calls.
    """
    if torch.version.cuda is not None or _has_torchvision_operators():
        return None
    library = torch.library.Library("torchvision", "DEF")
    for schema in NMS_SCHEMAS:
        library.define(schema)
    return library


# The schemas vanish when the library object is collected.
_declared_operators = _declare_missing_operators()
