"""Engines end when they should, whoever dies first; real processes, small Python programs in the place of engines."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from pytest_llmparity.engines.ports import reserve_port
from pytest_llmparity.engines.process import (
    EngineDied,
    EngineProcess,
    EngineStartError,
    LaunchCommand,
    StopReport,
    log_tail,
    root_cause,
)
from pytest_llmparity.engines.registry import KeptEngine, Registry
from pytest_llmparity.engines.watchdog import Redactor, start_time

REPOSITORY = Path(__file__).parents[2]

PRELUDE = """
import os, signal, subprocess, sys, time, traceback
pids, role = sys.argv[1:3]
here = [sys.executable, __file__, pids]
signal.alarm(60)  # a broken test leaves nothing behind for long
def ready():
    open(os.path.join(pids, f"{role}-{os.getpid()}"), "w").close()
def wait():
    ready()
    while True:
        time.sleep(60)
"""

PLAIN = "wait()"
FAMILY = """
if role == "engine":
    subprocess.Popen([*here, "worker"])
    subprocess.Popen([*here, "launcher"], start_new_session=True).wait()  # its child is an orphan from here on
elif role == "launcher":
    subprocess.Popen([*here, "orphan"], start_new_session=True)
    sys.exit()
"""
TREE = FAMILY + "wait()"
STUBBORN_TREE = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + TREE
LEAVES_TREE = (
    FAMILY
    + """
if role != "engine":
    wait()
while len(os.listdir(pids)) < 2:
    time.sleep(0.02)
"""
)
IGNORES_FIRST_TERM = """
terms = []
def on_term(number, frame):
    terms.append(number)
    if len(terms) == 2:
        sys.exit(0)
signal.signal(signal.SIGTERM, on_term)
wait()
"""
FAILS = """
def load():
    raise RuntimeError("no weights in the checkpoint")
try:
    load()
except RuntimeError:
    traceback.print_exc()
    sys.exit(3)
"""


class Lab:
    """Starts little engines and knows every process they made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pids = folder / "pids"
        self.pids.mkdir()
        self.log = folder / "logs" / "engine.log"
        self.engines: list[EngineProcess] = []

    def command(self, program: str) -> LaunchCommand:
        script = self.folder / "engine.py"
        script.write_text(PRELUDE + program)
        return LaunchCommand((sys.executable, str(script), str(self.pids), "engine"))

    def start(self, program: str, *, grace: float = 5.0) -> EngineProcess:
        engine = EngineProcess.start(self.command(program), log=self.log, grace=grace)
        self.engines.append(engine)
        return engine

    def wait_for_roles(self, *roles: str) -> None:
        wait_until(lambda: set(roles) <= set(self.roles()), 10, f"{roles} to be ready, found {self.roles()}")

    def roles(self) -> dict[str, int]:
        return {role: int(pid) for role, pid in (path.name.rsplit("-", 1) for path in self.pids.iterdir())}

    def alive(self) -> list[str]:
        return [role for role, pid in self.roles().items() if is_running(pid)]

    def close(self) -> None:
        for engine in self.engines:
            engine.stop()
        for role in self.alive():
            os.kill(self.roles()[role], signal.SIGKILL)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(tmp_path)
    yield lab
    lab.close()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.02)


def wait_for_returncode(engine: EngineProcess) -> int:
    wait_until(lambda: engine.poll() is not None, 10, "the engine to end")
    returncode = engine.poll()
    assert returncode is not None
    return returncode


PARENT = """
import os, sys, time
from pathlib import Path
from pytest_llmparity.engines.process import EngineProcess, LaunchCommand
engine = EngineProcess.start(LaunchCommand(tuple(sys.argv[3:])), log=Path(sys.argv[2]))
if sys.argv[1] == "forks" and os.fork() == 0:
    (Path(sys.argv[5]) / f"fork-{os.getpid()}").touch()
elif sys.argv[1] == "stops":
    while len(os.listdir(sys.argv[5])) < 3:
        time.sleep(0.02)
    Path(sys.argv[5], f"stopping-{os.getpid()}").touch()
    engine.stop()
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("parent", "program", "mark"),
    [
        ("plain", TREE, ()),
        ("plain", STUBBORN_TREE, ()),
        ("forks", TREE, ("fork",)),
        ("stops", STUBBORN_TREE, ("stopping",)),
    ],
    ids=["polite", "stubborn", "pipe-held-by-a-fork", "while-it-stops"],
)
def test_nothing_survives_five_seconds_after_the_parent_is_killed(
    lab: Lab, parent: str, program: str, mark: tuple[str, ...]
) -> None:
    command = [sys.executable, "-c", PARENT, parent, str(lab.log), *lab.command(program).argv]
    script = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(REPOSITORY)})
    lab.wait_for_roles("engine", "worker", "orphan", *mark)
    script.kill()
    script.wait()
    wait_until(lambda: set(lab.alive()) <= set(mark), 5, "the engine's processes to end")


def test_stop_ends_every_process_and_is_idempotent(lab: Lab) -> None:
    engine = lab.start(TREE)
    lab.wait_for_roles("engine", "worker", "orphan")
    assert engine.pid == lab.roles()["engine"]
    assert engine.poll() is None
    report = engine.stop()
    assert report == StopReport(returncode=-signal.SIGTERM, killed=False, survivors=())
    assert lab.alive() == []
    assert engine.poll() is None
    assert engine.stop() is report
    wait_until(lambda: not is_running(engine.watchdog_pid), 5, "the watchdog to end")


def test_stop_asks_again_when_the_first_sigterm_is_ignored(lab: Lab) -> None:
    engine = lab.start(IGNORES_FIRST_TERM, grace=0.5)
    lab.wait_for_roles("engine")
    assert engine.stop() == StopReport(returncode=0, killed=False, survivors=())


def test_stop_kills_what_does_not_listen(lab: Lab) -> None:
    engine = lab.start(STUBBORN_TREE, grace=0.3)
    lab.wait_for_roles("engine", "worker", "orphan")
    assert engine.stop() == StopReport(returncode=-signal.SIGKILL, killed=True, survivors=())
    assert lab.alive() == []


def test_an_engine_that_ends_takes_its_orphans_along(lab: Lab) -> None:
    engine = lab.start(LEAVES_TREE)
    assert wait_for_returncode(engine) == 0
    assert engine.stop().survivors == ()
    assert lab.alive() == []


def test_exit_code_zero_is_a_death_too(lab: Lab) -> None:
    returncode = wait_for_returncode(lab.start("print('bye')"))
    message = str(EngineDied("vllm-bf16", returncode, lab.log))
    assert "'vllm-bf16'" in message
    assert "exit code 0" in message
    assert "bye" in message
    assert str(lab.log) in message


def test_a_failed_start_is_explained_by_its_traceback(lab: Lab) -> None:
    died = EngineDied("vllm-bf16", wait_for_returncode(lab.start(FAILS)), lab.log)
    assert died.returncode == 3
    assert died.root_cause == "RuntimeError: no weights in the checkpoint"
    assert died.root_cause in str(died)


def test_a_signal_is_named(lab: Lab) -> None:
    engine = lab.start(PLAIN)
    os.kill(engine.pid, signal.SIGKILL)
    assert "SIGKILL" in str(EngineDied("vllm", wait_for_returncode(engine), lab.log))


def test_a_program_that_does_not_exist_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(EngineStartError, match=r"(?s)No such file.*/no/such/python -m vllm"):
        EngineProcess.start(LaunchCommand(("/no/such/python", "-m", "vllm")), log=tmp_path / "engine.log")


def test_an_engine_does_not_outlive_its_watchdog(lab: Lab) -> None:
    engine = lab.start(PLAIN)
    lab.wait_for_roles("engine")
    os.kill(engine.watchdog_pid, signal.SIGKILL)
    assert wait_for_returncode(engine) == -signal.SIGKILL
    assert engine.stop() == StopReport(returncode=-signal.SIGKILL, killed=True, survivors=())
    assert lab.alive() == []


def test_interrupts_of_the_terminal_do_not_reach_engine_or_watchdog(lab: Lab) -> None:
    engine = lab.start(PLAIN)
    sessions = {os.getsid(0), os.getsid(engine.pid), os.getsid(engine.watchdog_pid)}
    assert len(sessions) == 3


def test_the_engine_gets_the_environment_and_the_folder(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_REMOVED", "1")
    monkeypatch.setenv("LAB_INHERITED", "2")
    program = "print(os.getcwd(), [name + os.environ[name] for name in sorted(os.environ) if name.startswith('LAB_')])"
    command = replace(lab.command(program), env={"LAB_REMOVED": None, "LAB_ADDED": "3"}, cwd=lab.pids)
    engine = EngineProcess.start(command, log=lab.log)
    wait_for_returncode(engine)
    assert log_tail(lab.log) == f"{lab.pids} ['LAB_ADDED3', 'LAB_INHERITED2']"


def test_a_kept_engine_outlives_stop_and_ends_with_down(lab: Lab) -> None:
    registry = Registry(lab.folder / "run")
    engine = lab.start(TREE)
    lab.wait_for_roles("engine", "worker", "orphan")
    entry = registry.keep(engine, name="vllm-fp8", launch_key="abc", url="http://127.0.0.1:1", seconds=60)
    assert engine.stop() == StopReport(returncode=None, killed=False, survivors=())
    assert registry.entries() == [entry]
    assert registry.find("abc") == entry
    assert registry.find("other") is None
    assert registry.touch(entry)
    assert entry.is_running()
    assert registry.down(entry) == ()
    assert lab.alive() == []
    assert registry.entries() == []
    assert not registry.touch(entry)


def test_a_kept_engine_ends_when_it_was_idle_and_not_before(lab: Lab) -> None:
    registry = Registry(lab.folder / "run")
    engine = lab.start(PLAIN)
    lab.wait_for_roles("engine")
    entry = registry.keep(engine, name="vllm", launch_key="abc", url="http://127.0.0.1:1", seconds=1.0)
    deadline = time.monotonic() + 2.0
    while time.monotonic() < deadline:
        assert registry.touch(entry)
        time.sleep(0.1)
    wait_until(lambda: not lab.alive(), 5, "the idle engine to end")
    assert list((lab.folder / "run").iterdir()) == []


@pytest.mark.parametrize("jump", [-86400.0, 86400.0], ids=["forward", "backward"])
def test_a_clock_that_jumps_neither_ends_a_kept_engine_early_nor_keeps_it(lab: Lab, jump: float) -> None:
    # Seen from a file, a clock that jumps forward by a day is a last use a day ago, and the other way round.
    registry = Registry(lab.folder / "run")
    engine = lab.start(PLAIN)
    lab.wait_for_roles("engine")
    registry.keep(engine, name="vllm", launch_key="abc", url="http://127.0.0.1:1", seconds=1.5)
    used = time.time() + jump
    os.utime(lab.folder / "run" / "kept-vllm.json", (used, used))
    time.sleep(0.8)
    assert lab.alive() == ["engine"]
    wait_until(lambda: not lab.alive(), 5, "the idle engine to end")


def test_a_clock_that_is_set_does_not_make_an_engine_another_process(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry(lab.folder / "run")
    engine = lab.start(PLAIN)
    lab.wait_for_roles("engine")
    entry = registry.keep(engine, name="vllm", launch_key="abc", url="http://127.0.0.1:1", seconds=60)
    create_time = psutil.Process.create_time
    monkeypatch.setattr(psutil.Process, "create_time", lambda process: create_time(process) + 3600)
    assert registry.entries() == [entry]
    assert entry.is_running()
    monkeypatch.undo()
    assert registry.down(entry) == ()


def test_a_kept_engine_survives_the_end_of_its_parent(lab: Lab) -> None:
    registry = Registry(lab.folder / "run")
    script = f"""
    import sys
    from pathlib import Path
    from pytest_llmparity.engines.process import EngineProcess, LaunchCommand
    from pytest_llmparity.engines.registry import Registry
    engine = EngineProcess.start(LaunchCommand(tuple(sys.argv[1:])), log=Path({str(lab.log)!r}))
    Registry(Path({str(lab.folder / "run")!r})).keep(engine, name="vllm", launch_key="k", url="u", seconds=60)
    """
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script), *lab.command(PLAIN).argv],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    lab.wait_for_roles("engine")
    (entry,) = registry.entries()
    assert lab.alive() == ["engine"]
    assert registry.down(entry) == ()
    assert lab.alive() == []


def test_an_engine_that_lost_its_watchdog_is_ended_when_the_registry_is_read(lab: Lab) -> None:
    registry = Registry(lab.folder / "run")
    engine = lab.start(PLAIN)
    lab.wait_for_roles("engine")
    registry.keep(engine, name="vllm", launch_key="abc", url="http://127.0.0.1:1", seconds=60)
    os.kill(engine.watchdog_pid, signal.SIGKILL)
    wait_until(lambda: not is_running(engine.watchdog_pid), 5, "the watchdog to die")
    assert registry.entries() == []
    assert lab.alive() == []


def test_an_ended_engine_cannot_be_kept(lab: Lab) -> None:
    registry = Registry(lab.folder / "run")
    engine = lab.start("pass")
    wait_for_returncode(engine)
    with pytest.raises(EngineDied):
        registry.keep(engine, name="vllm", launch_key="abc", url="http://127.0.0.1:1", seconds=60)
    assert registry.entries() == []


def entry_of_this_process() -> KeptEngine:
    started = start_time(os.getpid())
    return KeptEngine(
        name="vllm",
        launch_key="abc",
        url="http://127.0.0.1:1",
        pid=2**22 + 1,  # above the largest pid
        create_time=started,
        watchdog_pid=os.getpid(),
        watchdog_create_time=started,
        log=Path("/tmp/engine.log"),
        started="2026-01-01T00:00:00+00:00",
        keep_seconds=60.0,
        command="vllm serve model",
    )


def test_the_registry_keeps_entries_and_drops_those_of_other_processes(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    entry = entry_of_this_process()
    registry.put(entry)
    assert registry.entries() == [entry]
    registry.put(replace(entry, name="older", watchdog_create_time=entry.watchdog_create_time - 3600))
    (tmp_path / "kept-foreign.json").write_text('{"name": "foreign"}')
    assert registry.entries() == [entry]
    assert [path.name for path in tmp_path.iterdir()] == ["kept-vllm.json"]


def test_a_name_in_use_or_malformed_is_refused(tmp_path: Path) -> None:
    registry = Registry(tmp_path)
    entry = entry_of_this_process()
    registry.put(entry)
    with pytest.raises(ValueError, match="llmparity down vllm"):
        registry.put(replace(entry, watchdog_pid=entry.watchdog_pid + 1))
    with pytest.raises(ValueError, match="is no name"):
        registry.put(replace(entry, name="../vllm"))


def test_two_reservations_never_have_the_same_port(tmp_path: Path) -> None:
    reservations = [reserve_port(tmp_path) for _ in range(20)]
    assert len({reservation.port for reservation in reservations}) == 20
    assert len(list(tmp_path.iterdir())) == 20
    for reservation in reservations:
        reservation.release()
        reservation.release()
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_another_process_reserved_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with reserve_port(tmp_path) as taken, reserve_port(tmp_path) as other:
        free = other.port
    monkeypatch.setattr("pytest_llmparity.engines.ports.socket", FakeSockets([taken.port, free]))
    script = """
    import sys
    from filelock import FileLock
    with FileLock(sys.argv[1]):
        print("locked", flush=True)
        sys.stdin.read()
    """
    lock = str(tmp_path / f"port-{taken.port}.lock")
    command = [sys.executable, "-c", textwrap.dedent(script), lock]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with reserve_port(tmp_path) as reservation:
            assert reservation.port == free
        holder.kill()


class FakeSockets:
    """The socket module of a system that offers these ports in this order."""

    AF_INET = socket.AF_INET
    SOCK_STREAM = socket.SOCK_STREAM

    def __init__(self, ports: list[int]) -> None:
        self._ports = iter(ports)

    def socket(self, family: int, kind: int) -> FakeSockets:
        return self

    def bind(self, address: tuple[str, int]) -> None:
        assert address == ("127.0.0.1", 0)

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", next(self._ports)

    def __enter__(self) -> FakeSockets:
        return self

    def __exit__(self, *error: object) -> None:
        pass


def test_the_shell_line_starts_the_same_server_and_hides_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-1")
    command = LaunchCommand(
        ("vllm", "serve", "a model", "--api-key=sk-planted-1", "--hf-token", "hf-planted-22"),
        env={"HF_TOKEN": "hf-planted-22", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": None, "A": "b c"},
        cwd=Path("/srv/my models"),
    )
    line = command.shell_line()
    assert "planted" not in line
    assert line == (
        "cd '/srv/my models' && env -u PYTHONPATH HF_TOKEN='***' TOKENIZERS_PARALLELISM=false A='b c' "
        "vllm serve 'a model' '--api-key=***' --hf-token '***'"
    )


PRINTS_ALL = """
print(sys.argv, dict(os.environ), flush=True)
for piece in ("now in pieces: sk-pla", "nted-argu", "ment, pass ", "word/planted"):
    os.write(1, piece.encode())
    time.sleep(0.1)
raise RuntimeError("refused: " + os.environ["HF_TOKEN"])
"""


def test_an_engine_that_prints_its_secrets_does_not_get_them_into_its_log(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INHERITED_SECRET", "inherited-planted")
    monkeypatch.setenv("HTTPS_PROXY", "http://user:proxy-planted@proxy:3128")
    plain = lab.command(PRINTS_ALL)
    command = replace(
        plain,
        argv=(*plain.argv, "--api-key", "sk-planted-argument"),
        env={"HF_TOKEN": "pass word/planted", "MAX_NUM_TOKENS": "123456", "VISIBLE": "not-a-secret"},
    )
    engine = EngineProcess.start(command, log=lab.log)
    lab.engines.append(engine)
    assert not any("planted" in word for word in psutil.Process(engine.watchdog_pid).cmdline())
    died = EngineDied("vllm", wait_for_returncode(engine), lab.log)
    engine.stop()
    text = lab.log.read_text()
    assert "planted" not in text + log_tail(lab.log) + str(died) + command.shell_line()
    assert "now in pieces: ***, ***" in text
    assert died.root_cause == "RuntimeError: refused: ***"
    assert "user:***@proxy:3128" in text
    assert "not-a-secret" in text
    assert "123456" in text


def test_an_engine_that_prints_much_is_neither_held_up_nor_cut_off(lab: Lab) -> None:
    program = """
line = b"x" * 99 + b"\\n"
for _ in range(3000):
    sys.stdout.buffer.write(line * 100)
print("the end")
"""
    engine = lab.start(program)
    assert wait_for_returncode(engine) == 0
    assert lab.log.stat().st_size == 3000 * 100 * 100 + len("the end\n")
    assert log_tail(lab.log, lines=1) == "the end"


def test_an_engine_that_prints_without_end_is_stopped(lab: Lab) -> None:
    program = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
ready()
while True:
    os.write(1, b"y" * 4096)
    time.sleep(0.0005)
"""
    engine = lab.start(program, grace=0.3)
    lab.wait_for_roles("engine")
    began = time.monotonic()
    assert engine.stop() == StopReport(returncode=-signal.SIGKILL, killed=True, survivors=())
    assert time.monotonic() - began < 5


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_under_the_log_does_not_stop_the_engine(lab: Lab) -> None:
    command = lab.command("for _ in range(40): os.write(1, b'z' * 65536)\nwait()")
    engine = EngineProcess.start(command, log=Path("/dev/full"))
    lab.engines.append(engine)
    lab.wait_for_roles("engine")
    assert engine.poll() is None
    assert engine.stop().survivors == ()


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
def test_the_redactor_finds_secrets_wherever_the_stream_is_cut(size: int) -> None:
    secrets = [b"abcdef", b"abcdefgh", b"xxabcdef", b"defghijk", b"s3cret"]
    stream = b"abcdef abcdefg abcdefgh\nxxabcdefghijk s3cre s3cret\nabcde"
    redactor = Redactor(secrets)
    pieces = [redactor.feed(stream[i : i + size]) for i in range(0, len(stream), size)]
    assert b"".join([*pieces, redactor.flush()]) == b"*** ***g ***\n***ghijk s3cre ***\nabcde"


def test_the_redactor_holds_nothing_back_that_cannot_become_a_secret() -> None:
    redactor = Redactor([b"abcdef"])
    assert redactor.feed(b"ready, 50 %") == b"ready, 50 %"
    assert redactor.feed(b" abc") == b" "
    assert redactor.feed(b"\nx") == b"abc\nx"
    assert Redactor([]).feed(b"all of it") == b"all of it"


CORE = "(EngineCore_DP0 pid=71) ERROR 11-23 18:00:00 [core.py:842] "
SERVER = "(APIServer pid=7) "

VLLM_NO_WEIGHTS = f"""
{SERVER}WARNING 11-23 17:59:57 [plugins.py:1] Traceback (most recent call last):
{SERVER}WARNING 11-23 17:59:57 [plugins.py:1]   File "/x/plugins.py", line 1, in load
{SERVER}WARNING 11-23 17:59:57 [plugins.py:1] ImportError: an optional plugin
{SERVER}INFO 11-23 17:59:58 [api_server.py:1977] vLLM API server version 0.32.0
(EngineCore_DP0 pid=71) WARNING 11-23 17:59:59 [config.py:1] error: ignored, falling back
{CORE}EngineCore failed to start.
{CORE}Traceback (most recent call last):
{CORE}  File "/x/core.py", line 833, in run_engine_core
{SERVER}INFO 11-23 18:00:00 [utils.py:1] waiting
{CORE}    engine_core = EngineCoreProc(*args, **kwargs)
{CORE}                  ^^^^^^^^^^^^^^^
{CORE}RuntimeError: Cannot find any model weights with `/models/empty`
(EngineCore_DP0 pid=71) Process EngineCore_DP0:
(EngineCore_DP0 pid=71) Traceback (most recent call last):
(EngineCore_DP0 pid=71)   File "/x/process.py", line 314, in _bootstrap
(EngineCore_DP0 pid=71) SecondError: the same again
{SERVER}Traceback (most recent call last):
{SERVER}  File "/x/utils.py", line 9, in wait_for_engine_startup
{SERVER}    raise RuntimeError("Engine core initialization failed. "
{SERVER}RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {{'EngineCore': 1}}
"""

PYDANTIC = f"""
{SERVER}Traceback (most recent call last):
{SERVER}  File "/x/model.py", line 1, in __post_init__
{SERVER}    raise ValidationError
{SERVER}pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig
{SERVER}  Value error, User-specified max_model_len (9999) is greater than the derived max_model_len
{SERVER}    For further information visit https://errors.pydantic.dev
"""

CORE_AFTER_A_BAD_REQUEST = f"""
{SERVER}Traceback (most recent call last):
{SERVER}  File "/x/serving.py", line 1, in create
{SERVER}ValueError: this request only
\x1b[1;36m(Worker_TP0 pid=72)\x1b[0;0m ERROR 11-23 18:00:00 [worker.py:1] [rank0]: oops
(Worker_TP0 pid=72) Traceback (most recent call last):
(Worker_TP0 pid=72)   File "/x/worker.py", line 1, in execute
(Worker_TP0 pid=72) torch.OutOfMemoryError: CUDA out of memory.
"""

CLEAN_SHUTDOWN = f"""
{SERVER}INFO:     Shutting down
{SERVER}ERROR 11-23 18:00:00 [async_llm.py:1] AsyncLLM output_handler failed.
{SERVER}ERROR 11-23 18:00:00 [async_llm.py:1] vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue
nanobind: leaked 3 instances!
/x/resource_tracker.py:254: UserWarning: resource_tracker: There appear to be 1 leaked semaphore objects
Traceback (most recent call last):
  File "/x/resource_tracker.py", line 1, in main
    cache[rtype].remove(name)
KeyError: '/psm_1'
"""

TRTLLM = """
[11/23/2025-18:00:00] [TRT-LLM] [I] Using LLM with PyTorch backend
[11/23/2025-18:00:01] [TRT-LLM] [W] error: not this one
[11/23/2025-18:00:02] [TRT-LLM] [E] Failed to initialize executor on rank 0: unsupported quant mode
"""

ARGPARSE = """
usage: api_server.py [-h]
api_server.py: error: unrecognized arguments: --no-such-flag
"""

CUT_OFF = """
OSError: [Errno 98] Address already in use
Traceback (most recent call last):
  File "/x/core.py", line 833, in run_engine_core
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (VLLM_NO_WEIGHTS, "RuntimeError: Cannot find any model weights with `/models/empty`"),
        (
            PYDANTIC,
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig "
            "Value error, User-specified max_model_len (9999) is greater than the derived max_model_len",
        ),
        (CORE_AFTER_A_BAD_REQUEST, "torch.OutOfMemoryError: CUDA out of memory."),
        (CLEAN_SHUTDOWN, None),
        (TRTLLM, "Failed to initialize executor on rank 0: unsupported quant mode"),
        (ARGPARSE, "api_server.py: error: unrecognized arguments: --no-such-flag"),
        (CUT_OFF, "OSError: [Errno 98] Address already in use"),
        ("INFO: all is well\n", None),
    ],
    ids=["vllm", "pydantic", "core", "shutdown", "trtllm", "argparse", "cut-off", "nothing"],
)
def test_root_cause(tmp_path: Path, text: str, expected: str | None) -> None:
    log = tmp_path / "engine.log"
    log.write_text(text)
    assert root_cause(log) == expected


def test_a_missing_log_has_no_cause_and_no_tail(tmp_path: Path) -> None:
    assert root_cause(tmp_path / "none.log") is None
    assert log_tail(tmp_path / "none.log") == ""


def test_log_tail_returns_the_last_lines(tmp_path: Path) -> None:
    log = tmp_path / "engine.log"
    log.write_text("one\ntwo\nthree\n")
    assert log_tail(log, lines=2) == "two\nthree"
