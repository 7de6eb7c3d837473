"""A site against a cluster that is made of a few executables: every difference is named, with the line that mends it."""

import json
import os
import time

import pytest

from instar import cli, site
from instar.clusters import _check, _limits, pbs, slurm
from instar.site import Gpus, Part, Site

SINFO = """\
boost*|up|1-00:00:00|1-64|32|494000|gpu:a100:4(S:0-1),tmpfs:1
boost*|up|1-00:00:00|1-64|32+|515000+|gpu:a100:4
debug|up|30:00|1-2|32|494000|gpu:a100:4
cpu|down|4-00:00:00|1-infinite|112|512000|(null)
"""
SCONTROL = """\
PartitionName=boost AllowAccounts=ALL AllowQos=normal,lprod Default=YES MaxNodes=64 MaxTime=1-00:00:00 State=UP TotalNodes=3456
PartitionName=debug AllowAccounts=euhpc_a AllowQos=ALL MaxNodes=2 MaxTime=00:30:00 State=UP TotalNodes=12
PartitionName=cpu AllowAccounts=ALL AllowQos=ALL MaxNodes=UNLIMITED MaxTime=4-00:00:00 State=DOWN TotalNodes=100
"""
CONFIG = "Configuration data as of 2026\nMaxArraySize            = 1001\nJobRequeue = 1\n"
ACCOUNTS = "euhpc_a|boost|normal,lprod\neuhpc_b||normal\n"


@pytest.fixture
def commands(tmp_path, monkeypatch):
    """Puts executables on an otherwise nearly empty PATH: name -> what it prints, or the script it is."""
    for tool in ("bash", "cat", "sleep"):
        (tmp_path / tool).symlink_to(f"/usr/bin/{tool}")
    monkeypatch.setenv("PATH", str(tmp_path))

    def put(name, text, code=0):
        (tmp_path / f"{name}.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
        (tmp_path / name).write_text(f"#!/bin/bash\ncat '{tmp_path}/{name}.txt'\nexit {code}\n")
        (tmp_path / name).chmod(0o755)

    return put


def slurm_cluster(put):
    for name in ("sbatch", "squeue", "scancel"):
        put(name, "")
    put("sinfo", SINFO)
    put("scontrol", SCONTROL + CONFIG)
    put("sacctmgr", ACCOUNTS)


def mistakes(found, level="error"):
    return {finding.what: f"{finding.found}. {finding.do}" for finding in found if finding.level == level}


GOOD = Site(
    partition="boost",
    account="euhpc_a",
    qos="lprod",
    gpus=Gpus(per_node=4, type="a100"),
    cores=32,
    memory="480G",
    nodes=64,
)


def test_a_site_that_fits_has_nothing_to_mend(commands):
    slurm_cluster(commands)
    found = _check.check(GOOD)
    assert {finding.level for finding in found} == {"ok"}
    assert {"commands", "partition", "longest", "nodes", "cores", "gpus", "memory", "account", "qos"} == {
        finding.what for finding in found
    }


@pytest.mark.parametrize(
    ("changes", "what", "said"),
    [
        ({"partition": "bost"}, "partition", "there is no 'bost' here. Write partition: boost"),
        ({"partition": "gpu"}, "partition", "Write partition: one of boost, cpu, debug"),
        ({"longest": "3 d"}, "longest", "is 3 d, but boost allows 24 h. Write longest: 24 h"),
        ({"partition": "debug", "qos": None}, "longest", "allows 30 min. Write longest: 30 min"),
        ({"nodes": 65}, "nodes", "is 65, but boost allows 64. Write nodes: 64"),
        ({"cores": 64}, "cores", "a node of boost has 32. Write cores: 32"),
        ({"memory": "1T"}, "memory", "is 1T, but a node of boost has 502G. Write memory: 502G"),
        ({"memory": None, "memory_per_gpu": "200G"}, "memory_per_gpu", "200G for each of 4 GPUs, but a node of boost"),
        ({"gpus": {"per_node": 8}}, "gpus.per_node", "is 8, but boost has 4 a100 a node. Write gpus: {per_node: 4}"),
        ({"gpus": {"per_node": 4, "type": "v100"}}, "gpus.type", "Write gpus: {per_node: 4, type: a100}"),
        ({"account": "euhpc_c"}, "account", "is not one of yours: euhpc_a, euhpc_b. Write account: euhpc_"),
        ({"account": "euhpc_b", "partition": "debug", "qos": None}, "account", "Write account: euhpc_a"),
        ({"qos": "lprd"}, "qos", "'lprd' is not allowed in boost: lprod, normal. Write qos: lprod"),
    ],
)
def test_every_difference_is_named_with_the_line_that_mends_it(commands, changes, what, said):
    slurm_cluster(commands)
    wrong = mistakes(_check.check(Site(**GOOD.model_dump(mode="json") | changes)))
    assert said in wrong[what]


def test_all_mistakes_are_named_at_once_also_behind_a_slip_of_the_pen(commands):
    slurm_cluster(commands)
    site = Site(partition="boots", cores=99, nodes=99, longest="9 d", account="x", qos="x", gpus=Gpus(per_node=5))
    assert set(mistakes(_check.check(site))) == {
        "partition", "cores", "nodes", "longest", "account", "qos", "gpus.per_node",
    }  # fmt: skip


def test_what_is_left_open_is_pointed_out(commands):
    slurm_cluster(commands)
    open_ends = mistakes(_check.check(Site(array=5000)), "warning")
    assert "Write cores: 32, or less" in open_ends["cores"]
    assert "Write gpus: {per_node: 4}" in open_ends["gpus"]
    assert "null, and you have euhpc_a, euhpc_b" in open_ends["account"]
    assert "Write array: 1000" in open_ends["array"]


def test_jobs_of_another_kind_are_looked_at_too(commands):
    slurm_cluster(commands)
    site = GOOD.model_copy(
        update={"cpu": Part(partition="cpus", qos="normal"), "shared": Part(partition="debug", cores=99)}
    )
    found = _check.check(site)
    wrong = mistakes(found)
    assert "Write cpu.partition: cpu" in wrong["cpu.partition"]
    assert "Write shared.cores: 32" in wrong["shared.cores"]
    assert not [finding for finding in found if finding.what.startswith("cpu.gpu")]


def test_a_partition_that_is_down_is_worth_a_look(commands):
    slurm_cluster(commands)
    assert "takes no jobs now" in mistakes(_check.check(Site(partition="cpu")), "warning")["partition"]


@pytest.mark.parametrize(
    "rubbish", ["", "\n\n", "a|b|c\n", "PartitionName=\x00\n", b"\xff\xfe|up|||||\n", "<html>busy</html>"]
)
def test_rubbish_is_no_cluster_and_no_crash(commands, rubbish):
    for name in (*slurm.NEEDS, "sacctmgr"):
        commands(name, rubbish)
    for finding in _check.check(GOOD):
        assert finding.level in ("ok", "warning", "error")


def test_commands_that_fail_or_are_missing_are_named_and_the_others_still_asked(commands):
    slurm_cluster(commands)
    commands("sinfo", "", code=1)
    commands("sacctmgr", "You are not running a supported accounting_storage plugin", code=1)
    found = _check.check(GOOD)
    assert "could not be asked" in mistakes(found, "warning")["nodes"]
    assert any(finding.what == "longest" and finding.level == "ok" for finding in found)


def test_away_from_the_cluster_it_says_so(commands):
    wrong = mistakes(_check.check(GOOD))
    assert set(wrong) == set(slurm.NEEDS) and "Is this a login node" in wrong["sbatch"]


def test_a_command_that_hangs_holds_up_nobody(commands, tmp_path):
    slurm_cluster(commands)
    (tmp_path / "sinfo").write_text("#!/bin/bash\nexec sleep 60\n")
    begin = time.monotonic()
    found = _check.check(GOOD, seconds=0.5)
    assert time.monotonic() - begin < 5
    assert "gave no answer within 0.5 s" in mistakes(found, "warning")["nodes"]


QUEUES = """\
Queue: gpu
    queue_type = Execution
    resources_max.nodect = 10
    resources_max.walltime = 72:00:00
    enabled = True
    started = True

Queue: closed
    enabled = True
    started = False
"""
NODES = "x1\n     state = free\n     resources_available.mem = 528000000kb\n     resources_available.ncpus = 64\n" + (
    "     resources_available.ngpus = 4\n"
)


def test_pbs_is_asked_in_its_own_words(commands):
    for name, text in (("qsub", ""), ("qdel", ""), ("qstat", QUEUES), ("pbsnodes", NODES)):
        commands(name, text)
    here = Site(scheduler="pbs", partition="gpus", longest="96 h", nodes=11, cores=128, gpus=Gpus(per_node=8))
    wrong = mistakes(_check.check(here))
    assert "Write partition: gpu" in wrong["partition"]
    assert "Write longest: 3 d" in wrong["longest"]
    assert (wrong["nodes"][-9:], wrong["cores"][-9:]) == ("nodes: 10", "cores: 64")
    assert "has 4 GPUs a node" in wrong["gpus.per_node"]
    assert pbs.limits({"queues": QUEUES}).partitions["closed"].up is False


def test_this_machine_is_asked_what_it_has(commands):
    for name in ("setsid", "timeout"):
        commands(name, "")
    commands("nvidia-smi", "GPU 0: NVIDIA H200 (UUID: x)\n")
    cores = len(os.sched_getaffinity(0))
    here = Site(scheduler="local", again="requeue", cores=cores + 1)
    found = _check.check(here)
    assert f"Write cores: {cores}" in mistakes(found)["cores"]
    assert "nodes have 1 GPUs" in mistakes(found, "warning")["gpus"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1-02:03:04", 93784),
        ("26:03:04", 93784),
        ("30:00", 1800),
        ("30", 1800),
        ("2-00", 172800),
        ("UNLIMITED", float("inf")),
        ("n/a", None),
        ("", None),
        ("12:x", None),
    ],
)
def test_times_are_read_as_slurm_writes_them(text, seconds):
    assert _limits.seconds(text) == seconds


@pytest.mark.parametrize(
    ("text", "megabytes"),
    [("512000", 512000), ("515000+", 515000), ("480G", 491520), ("528000000kb", 515625), ("1tb", 1048576), ("x", None)],
)
def test_memory_is_read_as_schedulers_write_it(text, megabytes):
    assert _limits.megabytes(text) == megabytes


# --- the verb --------------------------------------------------------------------------------------------------------


def test_the_list_has_a_line_for_every_site_and_for_a_broken_one(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(site, "OWN", tmp_path)
    (tmp_path / "ours.yaml").write_text("about: our own cluster\n")
    (tmp_path / "broken.yaml").write_text("scheduler: slrum\n")
    assert cli.main(["site"]) == 0
    said = capsys.readouterr().out
    assert "our own cluster (yours)" in said and "LEONARDO Booster" in said
    assert "cannot be used: " in said and "did you mean 'slurm'?" in " ".join(said.split())
    assert cli.main(["site", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ours"]["file"] == str(tmp_path / "ours.yaml")


def test_a_site_is_shown_with_what_each_setting_means(capsys):
    assert cli.main(["site", "show", "lumi", "account=project_1"]) == 0
    said = capsys.readouterr().out
    assert "account: project_1" in said and "Whom the hours are counted to." in said
    assert cli.main(["site", "show", "lumi", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["gpus"]["per_node"] == 8


def test_a_check_ends_with_65_where_something_is_wrong(commands, capsys):
    slurm_cluster(commands)
    assert cli.main(["site", "check", "generic-slurm", "partition=bost"]) == 65
    said = capsys.readouterr().out
    assert "wrong    partition: there is no 'bost' here\n         Write partition: boost\n" in said
    assert cli.main(["site", "check", "generic-slurm", "--json"]) == 0
    assert {"level", "what", "found", "do"} == set(json.loads(capsys.readouterr().out)[0])


@pytest.mark.parametrize("words", [["look"], ["check"], ["show", "a", "b"], ["shwo", "lumi"]])
def test_other_words_are_refused(words, capsys):
    assert cli.main(["site", *words]) == 65
    assert "site show NAME" in capsys.readouterr().err or len(words) > 2
