"""How much memory a batch needs on a GPU beside the weights, and the batches that fit."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import torch

from shared.errors import ConfigurationError

if TYPE_CHECKING:  # diffusers takes seconds to import, and the batch is chosen without it
    from diffusers import AutoencoderKL

    from .unet import EngineUNet

# The decoder's largest tensor must stay below 2^31 elements.
MOST_DECODED, MOST_PIXELS = 11, 11 * 512 * 512
# Counted from the live tensors of one pass without compilation (tests/sd_worker/test_memory.py), in tensors of the
# size that a level's hidden ones have: of the network's first level, at the product inside a feed-forward,
LIVE_IN_STEP = 34
# and of what the decoder's last level takes, at its first residual layer.
LIVE_IN_DECODER = 3
TOKENS = 77
GIB = 2**30


class Needs(NamedTuple):
    """Bytes of one image while it is denoised, and of one while it is decoded."""

    step: int
    decode: int

    def of(self, batch: int, decoded: int) -> int:
        return max(batch * self.step, decoded * self.decode)

    def largest_batch(self, room: int, *, most: int, pixels: int) -> int:
        """The largest that takes no more than `room` bytes and is not above `most`; 0 where none fits."""
        fitting = (each for each in range(most, 0, -1) if self.of(each, decoded_at_once(each, pixels)) <= room)
        return next(fitting, 0)


def decoded_at_once(batch: int, pixels: int) -> int:
    """The largest divisor of the batch that the decoder takes for images of so many pixels."""
    most = max(1, min(MOST_DECODED, MOST_PIXELS // pixels))
    return next(part for part in range(most, 0, -1) if batch % part == 0)


def needs_of(unet: "EngineUNet", vae: "AutoencoderKL", *, height: int, width: int, is_guided: bool) -> Needs:
    """For images of height x width pixels."""
    channels = vae.config.block_out_channels
    shrunk = 2 ** (len(channels) - 1)
    hidden = unet.network.config.block_out_channels[0] * (height // shrunk) * (width // shrunk)
    evaluation = vae.dtype.itemsize * (LIVE_IN_STEP * hidden + TOKENS * unet.text_width)
    # The decoder's last level takes the channels of the one before it.
    taken = channels[:2][-1] * height * width
    return Needs(evaluation * (2 if is_guided else 1), vae.dtype.itemsize * LIVE_IN_DECODER * taken)


def free_bytes(device: torch.device) -> int:
    """On a GPU, with what torch has set aside and not given out."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


class Load(NamedTuple):
    """Batches of one size of a model's images of height x width pixels."""

    model: str
    batch: int
    height: int
    width: int
    needs: Needs

    def refuse_beyond(self, room: int) -> None:
        """Raises ConfigurationError where it does not fit into `room` bytes; names the largest batch that does."""
        if self.needed > room:
            fitting = self.needs.largest_batch(room, most=self.batch - 1, pixels=self.height * self.width)
            raise self.refusal(f"of which {room / GIB:.1f} are free", fitting)

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Out of memory inside it becomes a ConfigurationError."""
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise self.ran_out(error) from error

    def ran_out(self, error: torch.OutOfMemoryError) -> ConfigurationError:
        """The batch fitted by `refuse_beyond`, which cannot see everything; half of it is offered."""
        seen = ". ".join(str(error).split(". ")[:3]).rstrip(".")  # what follows is advice on torch's allocator
        return self.refusal(f"which ran out ({seen})", self.batch // 2)

    def refusal(self, seen: str, fitting: int) -> ConfigurationError:
        remedy = (
            f"set SYNTHCLONE_BATCH_SIZE={fitting}"
            if fitting
            else "no batch fits: use a GPU with more memory, or a smaller width and height"
        )
        return ConfigurationError(
            f"model {self.model!r} at {self.width} x {self.height} in batches of {self.batch} needs about "
            f"{self.needed / GIB:.1f} GiB of GPU memory beside its weights, {seen}; {remedy}"
        )

    @property
    def needed(self) -> int:
        return self.needs.of(self.batch, decoded_at_once(self.batch, self.height * self.width))
