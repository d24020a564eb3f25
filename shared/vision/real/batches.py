"""A listing's images in batches, in its order, as a network takes them."""

import signal
from collections.abc import Iterator

from shared.vision.loaders import PREFETCHED, loader_count

from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from shared.errors import AppError, CorruptObject, Unavailable

from .decoding import EvalView, eval_pixels, read_photo
from .listings import Listing

BYTES_PER_VALUE = 4


class Views(Dataset[tuple[Tensor, int]]):
    """Normalised image and label by position in the listing."""

    def __init__(self, listing: Listing, view: EvalView) -> None:
        self._listing = listing
        self._transform = eval_pixels(view)

    def __len__(self) -> int:
        return len(self._listing)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        entry = self._listing.entry(index)
        return self._transform(read_photo(entry)), entry.label


def eval_loaders(view: EvalView, batch_size: int) -> int:
    """How many loaders this machine has room and cores for."""
    return loader_count(batch_size * 3 * view.size**2 * BYTES_PER_VALUE)


def eval_batches(listing: Listing, view: EvalView, *, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images (B, 3, S, S) float32 and labels (B,) int64, every image once; the last batch may be smaller.

    Raises CorruptObject or Unavailable, naming the image that cannot be read.
    """
    yield from loaded(Views(listing, view), batch_size=batch_size, workers=workers)


def loaded(views: Dataset[tuple[Tensor, int]], *, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and their numbers, stacked in the set's order. Raises as `eval_batches` does."""
    loader = DataLoader(
        views,
        batch_size=batch_size,
        num_workers=workers,
        prefetch_factor=PREFETCHED if workers else None,
        worker_init_fn=end_on_signal,
    )
    try:
        yield from loader
    except (CorruptObject, Unavailable) as error:
        raise type(error)(without_traceback(error)) from error


def without_traceback(error: AppError) -> str:
    """torch raises a worker's error again with the worker's whole traceback as its message."""
    return error.detail.rstrip().rpartition(f".{type(error).__name__}: ")[2]


def end_on_signal(_worker: int) -> None:
    # Forked from a process that answers SIGTERM by ending its work in order; a loader has nothing to save.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
