"""What runs on the GPU, one program a tile. group_norm.py, geglu.py and self_attention.py start these.

Images lie channels last, so a sample is a matrix of pixels x channels. Sums are float32 in every type. The first
axis of a grid takes what grows with an image: the others end at 65,535.
"""

import triton
import triton.language as tl
from triton.runtime.errors import TritonError as TritonError


@triton.jit
def channel_moments(
    images, means, squares, pixels, channels, STRIPE: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr
):
    """Of each channel over a stripe of pixels: the mean, and the sum of squared distances from it.

    The sums are of distances from the stripe's first pixel, so a large mean costs no digits.
    """
    stripe, part = tl.program_id(0) // (channels // CHANNELS), tl.program_id(0) % (channels // CHANNELS)
    sample, channel = tl.program_id(1), part * CHANNELS + tl.arange(0, CHANNELS)
    image = images + sample.to(tl.int64) * pixels * channels + channel[None, :]
    first = tl.load(images + (sample.to(tl.int64) * pixels + stripe * STRIPE) * channels + channel).to(tl.float32)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    square = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for start in range(0, STRIPE, PIXELS):
        pixel = stripe * STRIPE + start + tl.arange(0, PIXELS)[:, None]
        seen = tl.load(image + pixel * channels, mask=pixel < pixels, other=0.0).to(tl.float32)
        distance = tl.where(pixel < pixels, seen - first[None, :], 0.0)
        total += distance
        square += distance * distance
    count = tl.minimum(STRIPE, pixels - stripe * STRIPE).to(tl.float32)
    distance = tl.sum(total, 0) / count
    row = (sample * tl.cdiv(pixels, STRIPE) + stripe) * channels + channel
    tl.store(means + row, first + distance)
    tl.store(squares + row, tl.sum(square, 0) - count * distance * distance)


@triton.jit
def channel_scales(
    means,
    squares,
    offsets,
    weights,
    biases,
    scales,
    shifts,
    pixels,
    channels,
    stripes,
    epsilon,
    HAS_OFFSETS: tl.constexpr,
    STRIPE: tl.constexpr,
    STRIPES: tl.constexpr,
    WIDTH: tl.constexpr,
    LANES: tl.constexpr,
):
    """From the moments of a group's channels: normalized = value x scale + shift, for each of its channels.

    A channel's offset counts as added to its values before, which costs no pass over them.
    """
    sample, group = tl.program_id(0), tl.program_id(1)
    lane = tl.arange(0, LANES)
    channel, is_own = group * WIDTH + lane, lane < WIDTH
    offset = tl.zeros((LANES,), tl.float32)
    if HAS_OFFSETS:
        offset = tl.load(offsets + channel, mask=is_own, other=0.0).to(tl.float32)
    summed = tl.zeros((STRIPES, LANES), tl.float32)
    for start in range(0, stripes, STRIPES):
        stripe = start + tl.arange(0, STRIPES)[:, None]
        known = (stripe < stripes) & (lane[None, :] < WIDTH)
        row = (sample * stripes + stripe) * channels + channel[None, :]
        count = tl.minimum(STRIPE, pixels - stripe * STRIPE).to(tl.float32)
        summed += tl.where(known, count * (tl.load(means + row, mask=known, other=0.0) + offset[None, :]), 0.0)
    values = (pixels * WIDTH).to(tl.float32)
    mean = tl.sum(summed) / values
    spread = tl.zeros((STRIPES, LANES), tl.float32)
    for start in range(0, stripes, STRIPES):
        stripe = start + tl.arange(0, STRIPES)[:, None]
        known = (stripe < stripes) & (lane[None, :] < WIDTH)
        row = (sample * stripes + stripe) * channels + channel[None, :]
        count = tl.minimum(STRIPE, pixels - stripe * STRIPE).to(tl.float32)
        distance = tl.load(means + row, mask=known, other=0.0) + offset[None, :] - mean
        square = tl.load(squares + row, mask=known, other=0.0)
        spread += tl.where(known, square + count * distance * distance, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(spread) / values + epsilon)
    scale = scale * tl.load(weights + channel, mask=is_own, other=0.0).to(tl.float32)
    shift = tl.load(biases + channel, mask=is_own, other=0.0).to(tl.float32) + (offset - mean) * scale
    tl.store(scales + sample * channels + channel, scale, mask=is_own)
    tl.store(shifts + sample * channels + channel, shift, mask=is_own)


@triton.jit
def scaled(
    images,
    scales,
    shifts,
    outputs,
    pixels,
    channels,
    HAS_SILU: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """value x scale + shift, and SiLU of it."""
    stripe, part = tl.program_id(0) // (channels // CHANNELS), tl.program_id(0) % (channels // CHANNELS)
    sample, channel = tl.program_id(1), part * CHANNELS + tl.arange(0, CHANNELS)
    pixel = stripe * PIXELS + tl.arange(0, PIXELS)[:, None]
    place = (sample.to(tl.int64) * pixels + pixel) * channels + channel[None, :]
    value = tl.load(images + place, mask=pixel < pixels, other=0.0).to(tl.float32)
    value = value * tl.load(scales + sample * channels + channel)[None, :]
    value = value + tl.load(shifts + sample * channels + channel)[None, :]
    if HAS_SILU:
        value = value / (1.0 + tl.exp(-value))
    tl.store(outputs + place, value.to(outputs.dtype.element_ty), mask=pixel < pixels)


@triton.jit
def gated_product(
    inputs,
    weights,
    biases,
    outputs,
    rows,
    width,
    taken,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    BAND: tl.constexpr,
):
    """(inputs @ values) x GELU(inputs @ gates), where weights (2 width, taken) hold values first and gates after.

    Both products end in the same tile, so neither is written. Programs go through a band of rows column by column:
    those that run at the same time share their inputs in the L2 cache.
    """
    across, down = tl.cdiv(width, COLUMNS), tl.cdiv(rows, ROWS)
    band = tl.program_id(0) // (BAND * across)
    height = tl.minimum(down - band * BAND, BAND)
    within = tl.program_id(0) % (BAND * across)
    row = (band * BAND + within % height) * ROWS + tl.arange(0, ROWS)
    column = (within // height) * COLUMNS + tl.arange(0, COLUMNS)
    depth = tl.arange(0, DEPTH)
    # Rows and columns beyond the end are computed from the last one and not stored.
    row_seen = tl.minimum(row, rows - 1).to(tl.int64)
    column_seen = tl.minimum(column, width - 1)
    left = inputs + row_seen[:, None] * taken + depth[None, :]
    right = weights + column_seen[None, :] * taken + depth[:, None]
    value = tl.zeros((ROWS, COLUMNS), tl.float32)
    gate = tl.zeros((ROWS, COLUMNS), tl.float32)
    for _ in range(0, taken, DEPTH):
        seen = tl.load(left)
        value = tl.dot(seen, tl.load(right), value)
        gate = tl.dot(seen, tl.load(right + width * taken), gate)
        left += DEPTH
        right += DEPTH
    value += tl.load(biases + column_seen).to(tl.float32)[None, :]
    gate += tl.load(biases + width + column_seen).to(tl.float32)[None, :]
    # Rounded where torch rounds: after the linear layer.
    value = value.to(outputs.dtype.element_ty).to(tl.float32)
    gate = gate.to(outputs.dtype.element_ty).to(tl.float32)
    value = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    place = outputs + row[:, None].to(tl.int64) * width + column[None, :]
    tl.store(place, value.to(outputs.dtype.element_ty), mask=(row[:, None] < rows) & (column[None, :] < width))


@triton.jit
def narrow_attention(
    queries,
    keys,
    values,
    outputs,
    sample_stride,
    token_stride,
    heads,
    tokens,
    scale,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    WIDTH: tl.constexpr,
    FRONT: tl.constexpr,
    BACK: tl.constexpr,
):
    """Softmax(scale x queries @ keys) @ values of heads whose WIDTH is FRONT and up to BACK more.

    A product's sides are powers of two: 40 as 32 + 16 is three quarters of the 64 it would be padded to. `scale` has
    the base-2 logarithm of e in it.
    """
    first, sample, head = tl.program_id(0) * QUERIES, tl.program_id(1) // heads, tl.program_id(1) % heads
    start = sample.to(tl.int64) * sample_stride + head * WIDTH
    front, back = tl.arange(0, FRONT), FRONT + tl.arange(0, BACK)
    is_back = back < WIDTH
    query = start + (first + tl.arange(0, QUERIES))[:, None] * token_stride
    query_front = tl.load(queries + query + front[None, :])
    query_back = tl.load(queries + query + back[None, :], mask=is_back[None, :], other=0.0)
    key = start + tl.arange(0, KEYS)[:, None] * token_stride
    most = tl.full((QUERIES,), float("-inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    sum_front = tl.zeros((QUERIES, FRONT), tl.float32)
    sum_back = tl.zeros((QUERIES, BACK), tl.float32)
    for _ in range(0, tokens, KEYS):
        key_front = tl.load(keys + key + front[None, :])
        key_back = tl.load(keys + key + back[None, :], mask=is_back[None, :], other=0.0)
        score = tl.dot(query_front, tl.trans(key_front))
        score = tl.dot(query_back, tl.trans(key_back), score)
        above = tl.maximum(most, tl.max(score, 1) * scale)
        weight = tl.exp2(score * scale - above[:, None])
        kept = tl.exp2(most - above)
        total = total * kept + tl.sum(weight, 1)
        weight = weight.to(values.dtype.element_ty)
        value_front = tl.load(values + key + front[None, :])
        value_back = tl.load(values + key + back[None, :], mask=is_back[None, :], other=0.0)
        sum_front = tl.dot(weight, value_front, sum_front * kept[:, None])
        sum_back = tl.dot(weight, value_back, sum_back * kept[:, None])
        most = above
        key += KEYS * token_stride
    sum_front /= total[:, None]
    sum_back /= total[:, None]
    token = (first + tl.arange(0, QUERIES))[:, None]
    place = outputs + (sample.to(tl.int64) * tokens + token) * heads * WIDTH + head * WIDTH
    tl.store(place + front[None, :], sum_front.to(outputs.dtype.element_ty))
    tl.store(place + back[None, :], sum_back.to(outputs.dtype.element_ty), mask=is_back[None, :])
