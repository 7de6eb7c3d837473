"""Exported: a file that `instar export` made, read by its own runtime. No PyTorch, no settings, no tables.

    from instar import exported
    model = exported.load("runs/digits/exports/onnx")
    answer = model.predict("photo.jpg")
    print(answer.label, answer.confidence)

Needs NumPy, Pillow and the runtime of the file: onnxruntime for .onnx, ai-edge-litert for .tflite.
Legend: B batch, H W pixels, C channels, K classes, D features.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image

from instar import contract as contracts
from instar import plugins
from instar.contract import CLASSES, EMBEDDING, PIXELS, Contract
from instar.errors import DataError, ExportError
from instar.readers import _images, _pixels, _views
from instar.readers._views import Frame, View

Source = str | Path | bytes | np.ndarray


@dataclass(frozen=True, eq=False)
class Answer:
    """What a model says about one image.

    labels         names of the classes
    probability_K  of each class, float32; None where it answers something else
    mask_HW        the class of each pixel, uint8: of an image file, of each of its own pixels, upright
    embedding_D    the vector of the image, float32
    """

    labels: tuple[str, ...]
    probability_K: np.ndarray | None = None
    mask_HW: np.ndarray | None = None
    embedding_D: np.ndarray | None = None

    @property
    def label(self) -> str:
        """The most probable class."""
        return self.ranking[0][0]

    @property
    def confidence(self) -> float:
        """Its probability."""
        return self.ranking[0][1]

    @property
    def ranking(self) -> list[tuple[str, float]]:
        """All classes with their probabilities, the most probable first."""
        assert self.probability_K is not None, "this model does not answer classes"
        order = np.argsort(-self.probability_K, kind="stable").tolist()
        return [(self.labels[k], float(self.probability_K[k])) for k in order]

    @property
    def shares(self) -> list[tuple[str, float]]:
        """For each class its share of the pixels, the largest first."""
        assert self.mask_HW is not None, "this model does not answer pixels"
        share_K = np.bincount(self.mask_HW.reshape(-1), minlength=len(self.labels)) / max(1, self.mask_HW.size)
        return [(self.labels[k], float(share_K[k])) for k in np.argsort(-share_K, kind="stable").tolist()]


class Model:
    """A model and its contract, whatever computes it.

    compute   from image_BHWC, as the contract says, to the outputs by name
    """

    def __init__(
        self, contract: Contract, compute: Callable[[np.ndarray], Mapping[str, np.ndarray]], *, where: str = "the model"
    ):
        self.contract = contract
        self._compute = compute
        self._where = where

    def predict(self, source: Source) -> Answer:
        """What it says about an image file, or an array of H x W x C as it was decoded.

        Raises DataError where that is no image this model can look at.
        """
        image_HWC, size = shown(source, self.contract)
        return sized(self.answer(image_HWC), size)

    def answer(self, image_HWC: np.ndarray) -> Answer:
        """What it says about pixels that are as the contract wants them. Raises DataError where they are not."""
        fit(image_HWC, self.contract)
        return self.answers(image_HWC[None])[0]

    def answers(self, image_BHWC: np.ndarray) -> list[Answer]:
        """The same about several images of one size."""
        step = self.contract.batch or len(image_BHWC)
        found: list[Answer] = []
        for start in range(0, len(image_BHWC), step):
            outputs = self.compute(image_BHWC[start : start + step])
            found += [answer_of(outputs, row, self.contract) for row in range(len(image_BHWC[start : start + step]))]
        return found

    def compute(self, image_BHWC: np.ndarray) -> Mapping[str, np.ndarray]:
        """The outputs by name. Raises ExportError where they are not what the contract promises."""
        outputs = self._compute(np.ascontiguousarray(image_BHWC))
        name = {CLASSES: "probability", PIXELS: "mask", EMBEDDING: "embedding"}[self.contract.answers]
        if name not in outputs:
            raise ExportError(f"{self._where}: it has no output {name!r}, but {', '.join(outputs)}. Export it again.")
        if self.contract.answers == CLASSES and outputs[name].shape[1:] != (len(self.contract.labels),):
            raise ExportError(
                f"{self._where}: it answers {outputs[name].shape[-1]} classes, but its contract names "
                f"{len(self.contract.labels)}. Export the run again."
            )
        return outputs


def load(path: str | Path, *, threads: int | None = None, trust: bool = False, kind: str = "") -> Model:
    """The model in an exported file, or in the folder it lies in.

    threads   that compute; None for as many as the runtime takes
    kind      the exporter that reads it; by default the one for the end of its name
    trust     also open formats that could execute what is in them (.pt2): only for files you made
    Raises ExportError for a file that is broken, foreign, or whose runtime is not installed.
    """
    file = Path(path) if kind else file_of(Path(path))
    exporter = plugins.load("exporters", kind or kind_of(file))
    if exporter.EXECUTES and not trust:
        raise ExportError(
            f"{file}: reading a {exporter.SUFFIX} file can execute what is in it. Read only what you made yourself, "
            f"with trust=true, or export to onnx or litert, which cannot."
        )
    installed(exporter, exporter.RUNS_ON)
    try:
        document, compute = exporter.open(file, threads=threads)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # runtimes raise all sorts of things at hostile bytes
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ExportError(
            f"{file}: is no whole {exporter.SUFFIX} file ({first[:300]}). Copy it again, or export the run again."
        ) from error
    if not document:
        raise ExportError(
            f"{file}: has no contract, so nobody knows what it takes. It was not made by instar export, was not copied "
            f"whole, or something has rewritten it."
        )
    return Model(contracts.read(document, where=str(file)), compute, where=str(file))


def is_exported(path: Path) -> bool:
    """Whether this is an exported file or its folder, by name alone."""
    if path.is_dir():
        return any((path / f"model{suffix}").is_file() for suffix in suffixes())
    return path.suffix in suffixes()


def suffixes() -> dict[str, str]:
    """From the ends of file names to the exporters that read them."""
    return {plugins.load("exporters", kind).SUFFIX: kind for kind in plugins.kinds("exporters")}


def file_of(path: Path) -> Path:
    """The model's file. Raises ExportError where there is none."""
    if path.is_dir():
        inside = [path / f"model{suffix}" for suffix in suffixes() if (path / f"model{suffix}").is_file()]
        if not inside:
            raise ExportError(f"{path}: there is no model.onnx, model.tflite or the like in this folder.")
        return inside[0]
    if not path.is_file():
        raise ExportError(f"{path}: no such file.")
    return path


def kind_of(file: Path) -> str:
    """Which exporter reads a file, by the end of its name. Raises ExportError where none does."""
    kinds = suffixes()
    if file.suffix not in kinds:
        raise ExportError(f"{file}: is no exported model; those end in {', '.join(sorted(kinds))}")
    return kinds[file.suffix]


def installed(exporter: ModuleType, packages: tuple[str, ...]) -> None:
    """Raises ExportError where a package is missing, with the command that installs it."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ExportError(
            f"{', '.join(missing)} is not installed, which {exporter.SUFFIX} files need. "
            f"Write: pip install 'instar[{exporter.EXTRA}]'"
        )


# --- what the model is shown -----------------------------------------------------------------------------------------


def shown(source: Source, contract: Contract) -> tuple[np.ndarray, tuple[int, int]]:
    """What `seen` gives, and the height and width of the upright image it was made of."""
    found: list[tuple[int, int]] = []

    def noted(width: int, height: int) -> View:
        found.append((height, width))
        return _chosen(contract)(width, height)

    image_HWC = _seen(source, contract, noted)
    return image_HWC, found[-1] if found else (image_HWC.shape[0], image_HWC.shape[1])


def sized(answer: Answer, size: tuple[int, int]) -> Answer:
    """The answer with a mask of this height and width, each pixel the nearest of those that were looked at."""
    if answer.mask_HW is None or answer.mask_HW.shape == size:
        return answer
    mask = Image.fromarray(answer.mask_HW).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return replace(answer, mask_HW=np.asarray(mask))


def seen(source: Source, contract: Contract) -> np.ndarray:
    """image_HWC as the contract wants it, from an image file or its bytes, a .npy file, or what was decoded already.

    Raises DataError where it is none of these, or has another number of channels.
    """
    return _seen(source, contract, _chosen(contract))


def _seen(source: Source, contract: Contract, chosen: Callable[[int, int], View]) -> np.ndarray:
    if isinstance(source, bytes) or (isinstance(source, str | Path) and not str(source).endswith(".npy")):
        if contract.dtype != "uint8" or contract.channels not in (1, 3):
            raise DataError(f"this model looks at {contract.channels} numbers a pixel: give it a .npy of H x W x C")
        if isinstance(source, bytes):
            return _pixels.viewed(_images.of_bytes(source), chosen, form(contract), data=source)
        return _pixels.read(source, chosen, form(contract))
    array = _array(source) if isinstance(source, str | Path) else np.asarray(source)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"an array of {' x '.join(map(str, array.shape)) or 'nothing'} is no H x W x C")
    if contract.dtype == "uint8" and contract.channels in (1, 3):
        return _pixels.viewed_array(array, chosen, form(contract))
    fit(array, contract)
    return np.ascontiguousarray(array, contract.dtype)


def looked_at(source: Source, contract: Contract) -> np.ndarray:
    """The pixels that a model of pictures sees in the end, whoever crops and resizes: image_HWC."""
    return seen(source, replace(contract, inside=False))


def fit(image_HWC: np.ndarray, contract: Contract) -> None:
    """Raises DataError where pixels cannot go into the model."""
    wanted = " x ".join(str(side or "any") for side in (contract.height, contract.width))
    if image_HWC.ndim != 3 or image_HWC.shape[2] != contract.channels:
        raise DataError(
            f"an array of {' x '.join(map(str, image_HWC.shape))}, but this model looks at {wanted} pixels of "
            f"{contract.channels} channels"
        )
    if any(
        side is not None and side != is_
        for side, is_ in zip((contract.height, contract.width), image_HWC.shape[:2], strict=True)
    ):
        raise DataError(f"{image_HWC.shape[0]} x {image_HWC.shape[1]} pixels, but this model takes {wanted} only")


def answer_of(outputs: Mapping[str, np.ndarray], row: int, contract: Contract) -> Answer:
    """What the outputs of a batch say about one of its rows."""
    if contract.answers == CLASSES:
        return Answer(contract.labels, probability_K=np.asarray(outputs["probability"][row], np.float32))
    if contract.answers == PIXELS:
        return Answer(contract.labels, mask_HW=np.asarray(outputs["mask"][row], np.uint8))
    return Answer(contract.labels, embedding_D=np.asarray(outputs["embedding"][row], np.float32))


def _chosen(contract: Contract) -> Callable[[int, int], View]:
    """What of an image is handed over, from its width and height."""
    if contract.inside:
        return _views.untouched
    if contract.answers != PIXELS:
        return partial(_views.evaluation, contract)
    if contract.height and contract.width:
        return partial(_fitted, contract.width, contract.height)
    return partial(_views.everything, contract)


def _fitted(to_width: int, to_height: int, width: int, height: int) -> View:
    return View((0, 0, width, height), exact=True, frame=Frame((to_height, to_width), (to_width, to_height)))


def whole(path: str | Path, contract: Contract) -> np.ndarray:
    """All of an image as an app has it once it is decoded: upright, H x W x C."""
    if str(path).endswith(".npy"):
        return _pixels.viewed_array(_array(path), _views.untouched, form(contract))
    return _pixels.read(path, _views.untouched, form(contract))


def form(contract: Contract) -> _pixels.Form:
    """What every image becomes."""
    return _pixels.Form(contract.size, contract.channels, contract.background, span=contract.span)


def _array(path: str | Path) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError("no such file") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"is no .npy array ({error})") from error


__all__ = ["Answer", "Model", "Source", "fit", "is_exported", "load", "seen"]
