"""Split: which rows are trained on, validated on and tested on. Pure functions of labels, groups, shares and a seed.

There are two ways. `keyed` sends each row to its place by a hash of what the row is, so that files that are added or
removed move only the rows at a class's boundaries. `shuffled` is the one everybody knows, and moves nearly all.

`shuffled` gives, bit for bit, what scikit-learn's train_test_split(arange(N), test_size=share, shuffle=True,
stratify=labels, random_state=seed) gives (1.7 to 1.9), so that splits made elsewhere can be made again. It is written
out here because a split must not change with a library's version, and loading that library takes longer than training
on a small folder does. NumPy keeps the stream of RandomState for good.

Legend: N rows, K classes, G groups.
"""

from dataclasses import dataclass, field

import numpy as np

from instar.errors import DataError

TRAIN, VAL, TEST, NONE = 0, 1, 2, -1


@dataclass(frozen=True)
class Cut:
    """Positions on both sides of a cut, in the order they were drawn, and what had to give way.

    kept, taken   positions, int64; `taken` is the share that was asked for
    alone_K       classes that have one row here, which no cut can divide: it was kept
    raised        whether more than the share was taken, so that every class could have one
    """

    kept: np.ndarray
    taken: np.ndarray
    alone_K: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    raised: bool = False


def shuffled(target_N: np.ndarray, share: float, *, seed: int, stratify: bool = True) -> Cut:
    """Take a share of the rows at random; stratified, of every class alike.

    Where scikit-learn refuses - a class of one row, or fewer rows to take than classes - the row is kept, and one a
    class is taken. Raises DataError where even that is more than half of the rows.
    """
    num = len(target_N)
    take = int(np.ceil(share * num))
    if not stratify:
        order = _random(seed).permutation(num)
        return Cut(order[take:], order[:take])
    counts_K = np.bincount(target_N)
    alone_K = np.flatnonzero(counts_K == 1)
    divisible = np.flatnonzero(counts_K[target_N] > 1)
    if not len(divisible):
        return Cut(np.arange(num), np.zeros(0, np.int64), alone_K)
    num_classes = len(np.unique(target_N[divisible]))
    if len(alone_K):
        take = int(np.ceil(share * len(divisible)))
    raised = take < num_classes
    take = max(take, num_classes)
    if take > len(divisible) - num_classes:
        raise DataError(
            f"{num} images of {len(counts_K)} classes are too few to take a share of {share:g} with every class in it. "
            f"Write data.split.stratify=false, larger shares in data.split, or leave small classes out with "
            f"data.min_per_class=10."
        )
    kept, taken = _by_class(target_N[divisible], take, _random(seed))
    kept = np.concatenate([divisible[kept], np.flatnonzero(counts_K[target_N] == 1)])
    return Cut(kept, divisible[taken], alone_K, raised)


def keyed(
    target_N: np.ndarray, key_N: np.ndarray, shares: tuple[float, float, float], *, seed: int, stratify: bool = True
) -> np.ndarray:
    """TRAIN, VAL or TEST for each row, int8: of every class those with the smallest hashes are tested on, then come
    those that validate. Rows with equal keys, such as two copies of one picture, are never divided if of one class.

    key_N    uint64 that says what each row is: a hash of its content or of its name
    shares   of train, val and test; they sum to 1
    A class of three rows or more is in every split that has a share, and every class is trained on.
    """
    class_N = target_N if stratify else np.zeros(len(target_N), np.int64)
    counts_K = np.bincount(class_N)
    # Class in front and hash behind, in one number: sorting it finds every boundary, and takes no second array along.
    bits = np.uint64(max(1, int(len(counts_K) - 1).bit_length()))
    hash_N = _hashed(key_N, seed) >> bits
    place_N = (class_N.astype(np.uint64) << (np.uint64(64) - bits)) | hash_N
    sorted_N = np.sort(place_N)
    starts_K = np.cumsum(counts_K) - counts_K
    test_K, val_K = _shared_out(counts_K, shares)
    split_N = np.full(len(target_N), TRAIN, np.int8)
    for number, upto_K in ((VAL, test_K + val_K), (TEST, test_K)):
        last_K = sorted_N[np.maximum(starts_K + upto_K - 1, 0)]
        here_N = place_N <= last_K[class_N]
        split_N[here_N if upto_K.all() else here_N & (upto_K > 0)[class_N]] = number
    trained_K = np.bincount(class_N, weights=split_N == TRAIN, minlength=len(counts_K)) > 0
    lost_K = ~trained_K & (counts_K > 0)  # all of a class are copies of one picture
    return np.where(lost_K[class_N], np.int8(TRAIN), split_N) if lost_K.any() else split_N


def keyed_by_group(
    target_N: np.ndarray, group_N: np.ndarray, key_G: np.ndarray, shares: tuple[float, float, float], *, seed: int
) -> np.ndarray:
    """As `keyed`, so that no group is in two splits: groups of the same commonest class are taken in order of their
    hashes, each as a whole, until the share of the rows is reached.

    group_N   number of each row's group
    key_G     uint64 that says what each group is
    """
    num = len(key_G)
    pair, size = np.unique(group_N.astype(np.int64) * (int(target_N.max()) + 1) + target_N, return_counts=True)
    group_P, class_P = np.divmod(pair, int(target_N.max()) + 1)
    order = np.lexsort((-class_P, size, group_P))  # the last of each group is its commonest class
    last = np.append(group_P[order][1:] != group_P[order][:-1], True)
    class_G = class_P[order][last]
    size_G = np.bincount(group_N, minlength=num)
    order = np.lexsort((_hashed(key_G, seed), class_G))
    # How far each group's middle is into the rows of its class, 0 to 1.
    ends = np.cumsum(size_G[order])
    first = np.append(True, class_G[order][1:] != class_G[order][:-1])
    begins = np.maximum.accumulate(np.where(first, ends - size_G[order], 0))
    rows = np.bincount(class_G, weights=size_G)[class_G[order]]
    middle = (ends - size_G[order] / 2 - begins) / rows
    split_G = np.full(num, TRAIN, np.int8)
    split_G[order[middle < shares[TEST] + shares[VAL]]] = VAL
    split_G[order[middle < shares[TEST]]] = TEST
    _train_on_all(split_G, target_N, group_N)
    return split_G[group_N]


def _hashed(key_N: np.ndarray, seed: int) -> np.ndarray:
    """Keys mixed with a seed, uint64. Source of the mixer: Steele et al. 2014, SplitMix64."""
    with np.errstate(over="ignore"):
        value_N = key_N.astype(np.uint64) + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
        value_N ^= value_N >> np.uint64(30)
        value_N *= np.uint64(0xBF58476D1CE4E5B9)
        value_N ^= value_N >> np.uint64(27)
        value_N *= np.uint64(0x94D049BB133111EB)
        value_N ^= value_N >> np.uint64(31)
    return value_N


def _shared_out(counts_K: np.ndarray, shares: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray]:
    """How many rows of each class are tested and validated on. A function of that class's size alone, or a file that
    is added to one class would move rows of another."""
    test_K = np.floor(shares[TEST] * counts_K + 0.5).astype(np.int64)
    val_K = np.floor(shares[VAL] * counts_K + 0.5).astype(np.int64)
    if shares[TEST] > 0:
        test_K = np.clip(test_K, 1, np.maximum(counts_K - 1, 0))
    if shares[VAL] > 0:
        val_K = np.clip(val_K, 1, np.maximum(counts_K - test_K - 1, 0))
    return test_K, val_K


def _random(seed: int) -> np.random.RandomState:
    # The old generator takes 32 bits; a larger seed goes in as two words.
    return np.random.RandomState(seed if seed < 2**32 else [seed & 0xFFFFFFFF, seed >> 32])


def _by_class(target_N: np.ndarray, take: int, random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """Kept and taken positions: how many of each class, which ones, and each side shuffled, drawn in this order."""
    _, class_N, counts_K = np.unique(target_N, return_inverse=True, return_counts=True)
    kept_K = _allotted(counts_K, len(target_N) - take, random)
    taken_K = _allotted(counts_K - kept_K, take, random)
    of_class = np.split(np.argsort(class_N, kind="stable"), np.cumsum(counts_K)[:-1])
    kept, taken = [], []
    for members, keep, num in zip(of_class, kept_K.tolist(), taken_K.tolist(), strict=True):
        rows = members[random.permutation(len(members))]
        kept.append(rows[:keep])
        taken.append(rows[keep : keep + num])
    return random.permutation(np.concatenate(kept)), random.permutation(np.concatenate(taken))


def _allotted(counts_K: np.ndarray, total: int, random: np.random.RandomState) -> np.ndarray:
    """`total` divided over classes by their size: rounded down, then one more to the largest remainders, ties drawn."""
    exact_K = counts_K / counts_K.sum() * total
    allotted_K = np.floor(exact_K)
    missing = int(total - allotted_K.sum())
    remainder_K = exact_K - allotted_K
    for remainder in np.unique(remainder_K)[::-1] if missing > 0 else []:
        tied = np.flatnonzero(remainder_K == remainder)
        more = min(len(tied), missing)
        allotted_K[random.choice(tied, size=more, replace=False)] += 1
        missing -= more
        if missing == 0:
            break
    return allotted_K.astype(np.int64)


def by_group(
    target_N: np.ndarray, group_N: np.ndarray, shares: tuple[float, float, float], *, seed: int, stratify: bool = True
) -> np.ndarray:
    """TRAIN, VAL or TEST for each row, int8, so that no group is in two of them.

    group_N   number of each row's group
    shares    of train, val and test; they sum to 1
    Groups come in random order, the largest first; each goes where its classes are furthest below their share. A class
    that trains on nothing gets its smallest group moved. Raises DataError where there are fewer groups than splits.
    """
    class_N = target_N if stratify else np.zeros_like(target_N)
    counts_GK = np.zeros((group_N.max() + 1, class_N.max() + 1), np.int64)
    np.add.at(counts_GK, (group_N, class_N), 1)
    wanted = [split for split in (TRAIN, VAL, TEST) if shares[split] > 0]
    if len(counts_GK) < len(wanted):
        raise DataError(
            f"{len(counts_GK)} groups cannot be divided over {len(wanted)} splits, since groups stay whole. "
            f"Set data.split.val=0 or data.split.test=0, or use finer groups."
        )
    total_K = np.maximum(counts_GK.sum(0), 1)
    missing_SK = np.array(shares)[:, None] * np.ones(len(total_K))  # share of each class that a split still lacks
    order = np.random.RandomState(seed % 2**32).permutation(len(counts_GK))
    order = order[np.argsort(-counts_GK[order].sum(1), kind="stable")]
    split_G = np.full(len(counts_GK), NONE, np.int8)
    for group in order:
        need_S = [(missing_SK[split] * counts_GK[group]).sum() for split in wanted]
        split = wanted[int(np.argmax(need_S))]
        split_G[group] = split
        missing_SK[split] -= counts_GK[group] / total_K
    _fill_empty(split_G, counts_GK, wanted)
    _train_on_all(split_G, target_N, group_N)
    return split_G[group_N]


def _fill_empty(split_G: np.ndarray, counts_GK: np.ndarray, wanted: list[int]) -> None:
    """Give a split that got no group the smallest one of the split with the most groups."""
    size_G = counts_GK.sum(1)
    for split in wanted:
        if not np.any(split_G == split):
            richest = np.bincount(split_G).argmax()
            candidates = np.flatnonzero(split_G == richest)
            split_G[candidates[size_G[candidates].argmin()]] = split


def _train_on_all(split_G: np.ndarray, target_N: np.ndarray, group_N: np.ndarray) -> None:
    """Move the smallest group of a class that is nowhere trained on to the training side."""
    for target in np.unique(target_N):
        groups, sizes = np.unique(group_N[target_N == target], return_counts=True)
        if not np.any(split_G[groups] == TRAIN):
            split_G[groups[sizes.argmin()]] = TRAIN
