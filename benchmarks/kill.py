"""Kill trainings, benches, publications and downloads at random moments, start them again, and compare the end.

    python benchmarks/kill.py --kills 100 [--kinds train,bench,publish,download] [--seed 0] [--save]

A trial is one command in an empty folder. It is killed (SIGKILL) one to three times, each time at a random moment or at
a random stage of a write (before it, with half of the content on the disk, before and after the rename), and started
again; then it is left alone. Its end must be bit for bit that of a command that was never killed, and no temporary file
of a killed process may be left. Exit code 1 if either fails.

Commands are forked from a process that has imported everything, so that no time is spent on imports. Needs Linux.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from common import Row, add_output_arguments, append_row, make_parser

RESULTS = Path(__file__).parent / "results" / "kill.jsonl"
LONGEST_SECONDS = 300  # of one command, before it counts as hanging
MOST_KILLS = 3  # of one trial
TINY = ("--set", "data.resolution=16", "--set", "generator.width=0.125", "--set", "discriminator.width=0.125")
SHARED = (*TINY, "--set", "train.batch=8", "--set", "data.holdout=0.5", "--data", "phantoms:4", "--device", "cpu")
CADENCES = ("train.log_kimg=0.024", "train.sample_kimg=0.032", "train.checkpoint_kimg=0.016", "train.evaluate_share=1")
EVALUATION = ("--spaces", "random", "--samples", "24", "--device", "cpu")
DOWNLOAD = bytes(range(256)) * 8000  # 2 MB
PIECES = 40  # in which the server sends it
# Differ from run to run: seconds, dates, and hashes of files with metadata, which have no order.
VOLATILE = ("img_per_s", "data_wait_s", "time", "cost", "judged", "versions", "key", "weights_sha256")
LEFTOVERS = (".tmp", ".partial", ".building-", ".zoo-")


class Kind(NamedTuple):
    """A command that is killed.

    Attributes:
        share: of all kills.
        run: runs it in the current folder; returns its exit code.
        end: what must be the same in the end, by name.
    """

    share: float
    run: Callable[[Path], int]
    end: Callable[[], dict[str, Any]]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--kinds", default=",".join(KINDS), metavar="NAME,...")
    parser.add_argument("--seed", type=int, default=0)
    add_output_arguments(parser, RESULTS)
    options = parser.parse_args()
    kinds = {name: KINDS[name] for name in options.kinds.split(",")}
    # One thread, read when torch is imported; and nothing is measured, since each trial has a cache of its own.
    os.environ |= {"OMP_NUM_THREADS": "1", "ZOO_MEASURE": "0"}
    for variable in ("ZOO_OFFLINE", "HF_HUB_OFFLINE", "ZOO_DATA", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        os.environ.pop(variable, None)
    import_everything()
    signal.signal(signal.SIGTERM, lambda signum, frame: ENDING.append(signum))
    rows = []
    with tempfile.TemporaryDirectory(prefix="zoo-kill-") as name:
        total = sum(kind.share for kind in kinds.values())
        for kind_name, kind in kinds.items():
            kills = max(1, round(options.kills * kind.share / total))
            rows.append(
                {"kind": kind_name, "seed": options.seed, **try_kind(kind, kills, options.seed, Path(name) / kind_name)}
            )
            print(describe(rows[-1]), flush=True)
            if options.save:
                append_row(RESULTS, rows[-1])
    if options.json:
        print(json.dumps(rows))
    sys.exit(0 if all(row["same"] == row["trials"] and not row["leftovers"] for row in rows) else 1)


def describe(row: Row) -> str:
    kills = f"{row['kills']} kills, {row['in_writes']} of them inside writes"
    text = f"{row['kind']}: {kills}: {row['same']} of {row['trials']} trials end the same"
    left = ", ".join(row["leftovers"]) or "none"
    return f"{text}, leftovers: {left}" + "".join(f"\n  {failure}" for failure in row["failures"])


ENDING: list[int] = []  # a signal that asks for an end after the trial that is running


def try_kind(kind: Kind, kills: int, seed: int, place: Path) -> Row:
    """Kill a command ``kills`` times, in trials; return the counts."""
    rng = random.Random(seed)
    first, undisturbed = place / "first", place / "undisturbed"
    run_forked(kind, first)  # compiles, and makes what is given
    prepare(undisturbed, first)
    seconds, stages, code = run_forked(kind, undisturbed, count=True)
    if code:
        sys.exit(f"undisturbed, the command ended with {code}: {(undisturbed / 'output').read_text()[-500:]}")
    expected = end_of(kind, undisturbed)
    row: Row = {"kills": 0, "in_writes": 0, "trials": 0, "same": 0, "leftovers": [], "failures": []}
    while row["kills"] < kills and not ENDING:
        folder = place / f"trial-{row['trials']:03d}"
        prepare(folder, first)
        history: list[str] = []
        for _ in range(min(rng.randint(1, MOST_KILLS), kills - row["kills"])):
            in_write = bool(stages) and rng.random() < 0.5
            moment: dict[str, Any] = (
                {"stage": rng.randint(1, stages)} if in_write else {"after": rng.uniform(0, seconds)}
            )
            *_, code = run_forked(kind, folder, **moment)
            history.append(f"{moment} ended with {code}")
            if code == -signal.SIGKILL:
                row["kills"] += 1
                row["in_writes"] += in_write
            else:  # it ended before that moment, and would start anew
                break
        if code == -signal.SIGKILL:
            make_old(folder)
            *_, code = run_forked(kind, folder)
        row["trials"] += 1
        different = (
            differences(expected, end_of(kind, folder)) if code == 0 else [(folder / "output").read_text()[-300:]]
        )
        row["same"] += code == 0 and not different
        row["leftovers"] += [str(path.relative_to(folder)) for path in leftovers(folder)]
        if code or different:
            row["failures"].append(f"{'; '.join(history)}; then {code}: {', '.join(different)[:500]}")
        shutil.rmtree(folder)
    return row


def prepare(folder: Path, first: Path) -> None:
    """Make the folder of a trial, with the compiled engine and the inputs that the first one made."""
    folder.mkdir(parents=True)
    for name in ("cache/native", "given"):
        if (first / name).is_dir():
            shutil.copytree(first / name, folder / name)


def run_forked(
    kind: Kind, folder: Path, *, after: float | None = None, stage: int | None = None, count: bool = False
) -> tuple[float, int, int]:
    """Run a command in a child process; return its seconds, the stages of its writes (``count``) and its exit code.

    Args:
        after: kill it after this many seconds.
        stage: kill it at this stage of its writes.
        count: count the stages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    process = os.fork()
    if process == 0:
        os._exit(run_child(kind, folder, 0 if count else stage))
    limit = LONGEST_SECONDS if after is None else after
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            break
        if time.monotonic() - start > limit:
            os.kill(process, signal.SIGKILL)
            limit = LONGEST_SECONDS
        time.sleep(0.002)
    stages = int((folder / "stages").read_text()) if count else 0
    return time.monotonic() - start, stages, os.waitstatus_to_exitcode(status)


def run_child(kind: Kind, folder: Path, stage: int | None) -> int:
    """Run the command, in the child: 70 is an unexpected error, whose traceback is in the folder's ``output``."""
    import traceback

    from zoo.core import files

    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.chdir(folder)
    output = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    (folder / "tmp").mkdir(exist_ok=True)
    os.environ |= {"ZOO_CACHE": str(folder / "cache"), "TMPDIR": str(folder / "tmp")}
    tempfile.tempdir = None
    if stage is not None:
        os.environ[files.KILL_VARIABLE] = str(stage)
    try:
        code = kind.run(folder)
        if stage == 0:
            Path("stages").write_text(str(next(files._stages) - 1))
        return code
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
        return 70


def end_of(kind: Kind, folder: Path) -> dict[str, Any]:
    """Return what must be the same in the end."""
    with contextlib.chdir(folder):
        return kind.end()


def differences(expected: Any, end: Any, name: str = "") -> list[str]:
    """Return the dotted names of what differs, is missing or too much."""
    if isinstance(expected, dict) and isinstance(end, dict):
        names = sorted(expected.keys() | end.keys())
        return [place for key in names for place in differences(expected.get(key), end.get(key), f"{name}.{key}")]
    return [] if expected == end else [name.lstrip(".")]


def leftovers(folder: Path) -> list[Path]:
    """Return temporary files and folders; at the end of a trial no process writes them."""
    named = [path for path in folder.rglob("*") if any(text in path.name for text in LEFTOVERS)]
    return named + [path for path in (folder / "tmp").iterdir() if not path.name.startswith("torchinductor")]


def make_old(folder: Path) -> None:
    """Let the last start find leftovers that are two minutes old: younger ones may wait for a later start."""
    then = time.time() - 120
    for path in leftovers(folder):
        for each in [path, *path.rglob("*")]:
            os.utime(each, (then, then))


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def without_volatile(value: Any) -> Any:
    """Return plain data without what differs from run to run."""
    if isinstance(value, dict):
        return {key: without_volatile(item) for key, item in value.items() if key not in VOLATILE}
    return [without_volatile(item) for item in value] if isinstance(value, list) else value


def import_everything() -> None:
    """Import what the commands import, before the first fork."""
    import matplotlib.pyplot
    import torch
    import torch.hub

    import zoo.evaluation.bench
    import zoo.evaluation.publish
    import zoo.training.train

    torch.set_num_threads(1)
    del matplotlib, zoo


def zoo_command(*arguments: str) -> int:
    from zoo.cli.main import main

    try:
        return main(list(arguments))
    except SystemExit as stop:
        return int(stop.code or 0)


def train(folder: Path) -> int:
    settings = [word for text in CADENCES for word in ("--set", text)]
    return zoo_command("train", "dcgan-64", "--kimg", "0.064", *SHARED, *settings)


def end_of_training(run: Path = Path("runs/dcgan-64-000")) -> dict[str, Any]:
    """Return the digests of images and weights, the content of the newest checkpoint, and the rows of the log."""
    from zoo.training.checkpoint import load_checkpoint, newest_checkpoint

    newest = newest_checkpoint(run / "state")
    end: dict[str, Any] = {"checkpoint": content_digest(load_checkpoint(newest)["trainer"]) if newest else None}
    for path in run.glob("*.safetensors"):
        end[str(path)] = weights_digest(path)
    for path in [*run.glob("samples/*"), *run.glob("*.gif"), run / "recipe.yaml"]:
        end[str(path)] = file_digest(path)
    end["log"] = [without_volatile(json.loads(line)) for line in (run / "log.jsonl").read_text().splitlines()]
    info = json.loads((run / "run.json").read_text())
    end["info"] = {key: info[key] for key in ("status", "nimg", "kimg", "data_digest", "recipe_digest")}
    end["runs"] = sorted(path.name for path in run.parent.iterdir())
    return end


def weights_digest(path: Path) -> str:
    """Hash tensors and metadata; in the file itself the metadata have no order."""
    import safetensors

    with safetensors.safe_open(path, framework="pt") as file:
        return content_digest([dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}])  # noqa: SIM118


def content_digest(value: Any) -> str:
    """Hash nested lists and mappings of tensors and plain values."""
    import torch

    if isinstance(value, torch.Tensor):
        return file_like_digest(value.contiguous().numpy().tobytes(), str(value.dtype), str(tuple(value.shape)))
    if isinstance(value, dict):
        return file_like_digest(*(f"{key} {content_digest(value[key])}" for key in sorted(value, key=str)))
    if isinstance(value, list | tuple):
        return file_like_digest(*map(content_digest, value))
    return repr(value)


def file_like_digest(*parts: str | bytes) -> str:
    state = hashlib.sha256()
    for part in parts:
        state.update(hashlib.sha256(part if isinstance(part, bytes) else part.encode()).digest())
    return state.hexdigest()


def bench(folder: Path) -> int:
    measured = ("--metrics", "fid,ssim", "--spaces", "random", "--samples", "24")
    return zoo_command("bench", "dcgan-64", "--train-kimg", "0.024", "--seeds", "2", *SHARED, *measured)


def end_of_bench() -> dict[str, Any]:
    lines = Path("bench/results.jsonl").read_text().splitlines()
    end: dict[str, Any] = {f"row {index}": without_volatile(json.loads(line)) for index, line in enumerate(lines)}
    for run in sorted(Path("bench/runs").iterdir()):
        end |= {f"{run.name} {name}": value for name, value in end_of_training(run).items()}
    end["files"] = sorted(path.name for path in Path("bench").iterdir())
    return end


def publish(folder: Path) -> int:
    """Publish a run that is trained once, in place of what was published before."""
    given = folder / "given" / "runs"
    if not given.exists():
        code = zoo_command("train", "dcgan-64", "--kimg", "0.024", *SHARED, "--out", str(given))
        publication = ("publish", str(given / "dcgan-64-000"), "--to", str(folder / "given" / "model"), *EVALUATION)
        if code or zoo_command(*publication, "--licence", "An earlier text."):
            return 1
    if not Path("model").exists() and not Path("started").exists():
        shutil.copytree(folder / "given" / "model", "model")
        Path("started").touch()
    return zoo_command("publish", str(given / "dcgan-64-000"), "--to", "model", "--force", *EVALUATION)


def end_of_publication() -> dict[str, Any]:
    card = json.loads(Path("model/card.json").read_text())
    names = {path.name for path in Path("model").iterdir()}
    end: dict[str, Any] = {name: file_digest(Path("model", name)) for name in names & {"recipe.yaml", "samples.png"}}
    # Metadata in the weights' file have no order, so that its hash differs, and the hash of the same weights with it.
    weights = Path("model/dcgan-64.safetensors")
    right = file_digest(weights) == card["entry"].pop("sha256")
    card = without_volatile(card["entry"])
    return {**end, "names": sorted(names), "card": card, "right hash": right, "weights": weights_digest(weights)}


class SlowServer(http.server.BaseHTTPRequestHandler):
    """Sends ``DOWNLOAD`` in pieces, so that a download lasts long enough to be killed."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(DOWNLOAD)))
        self.end_headers()
        size = len(DOWNLOAD) // PIECES
        with contextlib.suppress(OSError):  # the client was killed
            for start in range(0, len(DOWNLOAD), size):
                self.wfile.write(DOWNLOAD[start : start + size])
                time.sleep(0.01)

    def log_message(self, *_: Any) -> None:
        pass


def download(folder: Path) -> int:
    """Download pretrained weights from a server in this process."""
    from zoo.hub.pretrained import PretrainedWeights

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), SlowServer)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    digest = hashlib.sha256(DOWNLOAD).hexdigest()
    facts: dict[str, Any] = {"recipe": "dcgan-64", "recipe_digest": "x", "resolution": 16, "nimg": 7}
    entry = PretrainedWeights(name="far", sha256=digest, size=len(DOWNLOAD), data="none", licence="any", **facts)
    object.__setattr__(entry, "url", f"http://127.0.0.1:{server.server_address[1]}/x")  # catalogues allow https only
    entry.path()
    return 0


def end_of_download() -> dict[str, Any]:
    return {path.name: file_digest(path) for path in Path("cache/weights").iterdir()}


KINDS = {
    "train": Kind(0.4, train, end_of_training),
    "bench": Kind(0.15, bench, end_of_bench),
    "publish": Kind(0.15, publish, end_of_publication),
    "download": Kind(0.3, download, end_of_download),
}

if __name__ == "__main__":
    main()
