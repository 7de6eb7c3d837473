import os
import subprocess
import sys
from pathlib import Path

from instar import caches


def test_downloads_are_shared_and_compiled_kernels_are_the_nodes_own():
    values = caches.environment("/scratch/it's mine", "$TMPDIR/instar", given={})
    assert values == {
        "HF_HOME": "/scratch/it's mine/huggingface",
        "TORCH_HOME": "/scratch/it's mine/torch",
        "MPLCONFIGDIR": "/scratch/it's mine/matplotlib",
        "XDG_CACHE_HOME": "/scratch/it's mine",
        "TRITON_CACHE_DIR": "$TMPDIR/instar/triton",
        "TORCHINDUCTOR_CACHE_DIR": "$TMPDIR/instar/inductor",
        "MIOPEN_USER_DB_PATH": "$TMPDIR/instar/miopen",
        "MIOPEN_CUSTOM_CACHE_DIR": "$TMPDIR/instar/miopen",
    }


def test_what_the_user_set_is_left_alone():
    values = caches.environment("/scratch", given={"TORCH_HOME": "/mine", "TRITON_CACHE_DIR": "/mine"})
    assert "TORCH_HOME" not in values and "TRITON_CACHE_DIR" not in values
    assert values["HF_HOME"] == "/scratch/huggingface"


def test_whoever_moved_all_caches_has_moved_those_that_follow():
    values = caches.environment("/scratch", given={"XDG_CACHE_HOME": "/mine"})
    assert not {"XDG_CACHE_HOME", "HF_HOME", "TORCH_HOME", "MPLCONFIGDIR"} & set(values)
    assert values["TRITON_CACHE_DIR"] == "/scratch/compiled/triton"


def test_nothing_points_into_home(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert not [value for value in caches.environment("/scratch/me", given={}).values() if "/home/me" in value]


def test_the_folders_are_where_the_libraries_look(tmp_path):
    """Compared with huggingface_hub and torch.hub themselves, for every way of saying it."""
    program = (
        "import json, torch.hub, huggingface_hub.constants as hf\n"
        "from instar import caches\n"
        "assert str(caches.hub()) == hf.HF_HUB_CACHE, (caches.hub(), hf.HF_HUB_CACHE)\n"
        "assert str(caches.torch_hub()) == torch.hub.get_dir() + '/checkpoints', torch.hub.get_dir()\n"
        "import importlib, os\n"
        "for given in json.loads(os.environ['CASES']):\n"
        "    for name in ('HF_HOME', 'HF_HUB_CACHE', 'TORCH_HOME', 'XDG_CACHE_HOME'): os.environ.pop(name, None)\n"
        "    os.environ.update(given)\n"
        "    importlib.reload(hf)\n"
        "    assert str(caches.hub()) == hf.HF_HUB_CACHE, (given, caches.hub(), hf.HF_HUB_CACHE)\n"
        "    assert str(caches.torch_hub()) == torch.hub.get_dir() + '/checkpoints', (given, torch.hub.get_dir())\n"
    )
    cases = """[{}, {"HF_HOME": "~/a b"}, {"HF_HUB_CACHE": "$HOME/x"}, {"TORCH_HOME": "/t"}, {"XDG_CACHE_HOME": "/x"},
                {"XDG_CACHE_HOME": "/x", "HF_HOME": "/h", "TORCH_HOME": "~/t"}]"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "TORCH_", "XDG_"))}
    home = {"HOME": str(tmp_path), "CASES": cases, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept | home, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_library_may_use_the_network():
    given = {"HF_HUB_OFFLINE": "0"}
    caches.refuse_network(given)
    assert given["HF_HUB_OFFLINE"] == given["TRANSFORMERS_OFFLINE"] == given["HF_DATASETS_OFFLINE"] == "1"
