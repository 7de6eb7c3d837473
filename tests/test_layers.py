"""Who may import whom. The table is the architecture; changing it takes a page in docs/decisions/."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "instar"

# A room may import rooms of its own level or below. The file or folder directly under instar/ is the room.
LEVELS = [
    {"errors", "__init__"},
    {"plugins", "spans", "documents", "formats", "caches", "outside", "quota", "atomic"},
    {"settings", "overrides", "validation", "composition"},
    # nouns
    {"run"},
    {"weights", "contract"},
    {"augment", "experiment", "machine", "site", "job", "manifest", "plan", "predictions", "networks", "masks"}
    | {"fields", "packed", "remote", "vectors", "embeddings", "space", "search", "study", "points"},
    {"lock", "preflight", "brought"},
    {"adopt", "trials"},
    # machinery that knows only nouns
    {"metrics", "report", "phones"},
    # shelves
    {"readers", "models", "tasks", "optimizers", "schedules", "balancers", "clusters"}
    | {"explainers", "exporters", "trackers"},
    {"exported"},
    {"engine", "queue"},
    # stages
    {"check", "prepare", "pack", "convert", "fetch", "train", "evaluate", "submit", "doctor", "bench", "demo"}
    | {"predict", "export", "serve", "embed", "explain", "tune", "fit"},
    {"cli", "terminal", "curves", "api", "testing", "__main__"},
]
SHELVES = next(rooms for rooms in LEVELS if "readers" in rooms)
STAGES = next(rooms for rooms in LEVELS if "train" in rooms)

# A framework has one door. Everything else reaches it through that file.
DOORS = {
    "hydra": {"composition.py"},
    "timm": {
        "models/timm.py",
        "models/smp.py",
        "models/vit.py",
        "models/_weights.py",
        "models/_parts.py",
        "explainers/attention.py",
        "optimizers/lamb.py",
        "optimizers/lars.py",
    },
    "matplotlib": {"report/figures.py"},
    "segmentation_models_pytorch": {"models/smp.py"},
    "huggingface_hub": {"fetch.py"},
    "h5py": {"fields.py"},
    "mlperf_logging": {"engine/mllog.py"},
    "simplejpeg": {"readers/_jpeg.py"},
    "instar_native": {"readers/_native.py"},
    "fsspec": {"remote.py"},
    "s3fs": set(),
    "onnx": {"exporters/onnx.py"},
    "onnxruntime": {"exporters/onnx.py"},
    "litert_torch": {"exporters/litert.py"},
    "ai_edge_litert": {"exporters/litert.py"},
    "ai_edge_quantizer": {"exporters/litert.py"},
    "starlette": {"serve.py"},
    "uvicorn": {"serve.py"},
    "lightning": {"engine/lightning/"},
    "torchmetrics": {"engine/lightning/"},
    "optuna": {"tune/searcher/"},
    "ray": {"tune/over_nodes.py"},
    "tensorboard": {"trackers/tensorboard.py"},
    "mlflow": {"trackers/mlflow.py"},
    "wandb": {"trackers/wandb.py"},
}
# Reading settings must be free: these never import anything heavy when they are imported themselves.
LIGHT = {"errors", "plugins", "spans", "documents", "settings", "overrides", "validation", "composition", "run",
         "augment", "formats", "experiment", "machine", "site", "job", "plan", "remote", "caches", "atomic", "weights",
         "preflight", "outside", "quota", "contract", "points", "curves", "space", "search", "study", "brought", "adopt",
         "lock", "cli", "terminal", "api", "__main__"} | SHELVES  # fmt: skip
HEAVY = {
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pyarrow",
    "sklearn",
    "matplotlib",
    "PIL",
    "hydra",
    "safetensors",
    "h5py",
    "scipy",
    "optuna",
    "ray",
    "tensorboard",
    "mlflow",
    "wandb",
}


def room(file: Path) -> str:
    first = file.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def level(name: str, where: str) -> int:
    for number, rooms in enumerate(LEVELS):
        if name in rooms:
            return number
    raise AssertionError(f"{where}: the room {name!r} is not in the table of tests/test_layers.py")


def imports(file: Path, *, top_only: bool = False) -> list[tuple[int, str]]:
    """Line and dotted name of everything a file imports, leaving out what only type checkers see."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found: list[tuple[int, str]] = []

    def visit(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import) and not (inside and top_only):
                found.extend((child.lineno, name.name) for name in child.names)
            if isinstance(child, ast.ImportFrom) and child.module and not (inside and top_only):
                if child.module == "instar":
                    found.extend((child.lineno, f"instar.{name.name}") for name in child.names)
                else:
                    found.append((child.lineno, child.module))
            visit(child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))

    visit(tree, False)
    return found


FILES = sorted(PACKAGE.rglob("*.py"))


def test_imports_point_one_way():
    wrong = []
    for file in FILES:
        for line, name in imports(file):
            if not name.startswith("instar.") or name == "instar.__version__":
                continue
            target = name.split(".")[1]
            here = f"{file.relative_to(PACKAGE.parent)}:{line}"
            if level(target, here) > level(room(file), here):
                wrong.append(f"{here}: {room(file)} imports {name}, which stands above it")
    assert not wrong, "\n".join(wrong)


def test_no_shelf_imports_another_plugin_and_no_stage_another_stage():
    wrong = []
    for file in FILES:
        for line, name in imports(file):
            parts = name.split(".")
            here = f"{file.relative_to(PACKAGE.parent)}:{line}"
            if len(parts) > 2 and parts[1] in SHELVES and not parts[2].startswith("_"):
                wrong.append(f"{here}: {name} is a plug-in; reach it by name through plugins.load")
            if room(file) in STAGES and len(parts) > 1 and parts[1] in STAGES - {room(file)}:
                wrong.append(f"{here}: the stage {room(file)} imports the stage {parts[1]}")
    assert not wrong, "\n".join(wrong)


def test_every_framework_has_its_door():
    wrong = []
    for file in FILES:
        path = str(file.relative_to(PACKAGE))
        for line, name in imports(file):
            doors = DOORS.get(name.split(".")[0])
            if doors is not None and not any(
                path == door or (door.endswith("/") and path.startswith(door)) for door in doors
            ):
                wrong.append(
                    f"instar/{path}:{line}: {name} is imported only in {', '.join(sorted(doors)) or 'no file yet'}"
                )
    assert not wrong, "\n".join(wrong)


def test_settings_can_be_read_without_anything_heavy():
    wrong = []
    for file in FILES:
        # A shelf's helpers (_weights.py) are themselves imported inside functions.
        if room(file) in LIGHT and not file.name.startswith("_"):
            for line, name in imports(file, top_only=True):
                if name.split(".")[0] in HEAVY:
                    wrong.append(f"{file.relative_to(PACKAGE.parent)}:{line}: {name} is imported at the top")
    assert not wrong, "\n".join(wrong)
