"""Other people's loaders on the same JPEGs, each with its own means, all with the augmentation of ImageNet.

A random area of 8 to 100 % resized to 224 x 224 with antialiasing, mirrored half of the time, normalised floats. Each
gives `passes` epochs in batches with workers that live as long as that, so that starting them is a small part.
"""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from torchvision import datasets, transforms
    from torchvision.transforms import v2

BATCH, SIZE = 64, 224
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
Images = Iterator[torch.Tensor]


def classic(*geometry: Any) -> transforms.Compose:
    """The transforms that ImageFolder is used with."""
    return transforms.Compose([*geometry, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])


def training() -> transforms.Compose:
    return classic(transforms.RandomResizedCrop(SIZE), transforms.RandomHorizontalFlip())


def image_folder(root: Path, *, workers: int, passes: int) -> Images:
    """torchvision's ImageFolder."""
    folder = datasets.ImageFolder(root, training())
    return _epochs(_loader(folder, workers, shuffle=True), passes)


def timm_loader(root: Path, *, workers: int, passes: int) -> Images:
    """timm's `create_loader`: uint8 from its workers, normalised on the device, which is this processor.

    It leaves out the images that fill no batch.
    """
    from timm.data import create_dataset, create_loader

    loader = create_loader(
        create_dataset("", str(root)),
        (3, SIZE, SIZE),
        BATCH,
        is_training=True,
        color_jitter=0,
        interpolation="bilinear",
        num_workers=workers,
        persistent_workers=workers > 0,
        device=torch.device("cpu"),
    )
    return _epochs(loader, passes)


def web_dataset(shards: Path, *, workers: int, passes: int) -> Images:
    """WebDataset on tar shards, a process for each as far as there are workers."""
    import webdataset

    change = training()
    found = [str(shard) for shard in sorted(shards.glob("*.tar"))]
    stream = webdataset.WebDataset(found, shardshuffle=len(found), empty_check=False).shuffle(200).decode("pil")
    stream = stream.to_tuple("jpg", "cls").map_tuple(lambda image: change(image.convert("RGB")), int)
    return _epochs(_loader(stream, min(workers, len(found))), passes)


def lit_data(folder: Path, *, workers: int, passes: int) -> Images:
    """litdata on its own chunks, which decodes to tensors."""
    import litdata

    change = v2.Compose(
        [
            v2.RandomResizedCrop(SIZE, antialias=True),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )

    class Changed(litdata.StreamingDataset):
        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            found = super().__getitem__(index)
            return change(found["image"]), found["label"]

    stream = Changed(str(folder), shuffle=True)
    loader = litdata.StreamingDataLoader(
        stream, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0, shuffle=True
    )
    return _epochs(loader, passes)


def lit_chunks(files: list[Path], folder: Path) -> None:
    """The same JPEGs, bytes untouched, in litdata's chunks."""
    import litdata

    numbers = {name: number for number, name in enumerate(sorted({file.parent.name for file in files}))}
    inputs = [(str(file.resolve()), numbers[file.parent.name]) for file in files]
    # It would change how all later processes are started, those of the other loaders too.
    litdata.optimize(
        _lit_sample, inputs, str(folder), chunk_bytes="4MB", num_workers=1, verbose=False, start_method="fork"
    )


def _lit_sample(given: tuple[str, int]) -> dict[str, Any]:
    return {"image": Image.open(given[0]), "label": given[1]}


def _loader(dataset: Any, workers: int, *, shuffle: bool | None = None) -> Any:
    return torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=shuffle, num_workers=workers, persistent_workers=workers > 0
    )


def _epochs(loader: Any, passes: int) -> Images:
    for _ in range(passes):
        for images, _ in loader:
            yield images
