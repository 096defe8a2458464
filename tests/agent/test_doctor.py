"""What the doctor finds, on the machine as it is and on poorer ones."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from agent import doctor
from agent.doctor import Finding, diagnose, render


@pytest.fixture(scope="module")
def findings() -> dict[str, Finding]:
    return {f.name: f for f in diagnose()}


def test_this_machine_can_run_the_quickstart(findings: dict[str, Finding]) -> None:
    broken = {f.name: f.detail for f in findings.values() if f.required and not f.ok}
    assert not broken
    assert set(findings) >= {
        *("python", "cores", "memory", "disk", "torch", "GPU", "vllm", "ray"),
        "default model",
        *("embedder", "bubblewrap", "docker", "chromium", "java"),
    }


def test_sandbox_really_ran(findings: dict[str, Finding]) -> None:
    assert findings["bubblewrap"].detail.startswith("ran a program in ")


def test_whatever_is_missing_has_a_remedy(findings: dict[str, Finding]) -> None:
    assert all(f.ok or f.remedy for f in findings.values())


def test_findings_are_one_line(findings: dict[str, Finding]) -> None:
    assert not [f for f in findings.values() if "\n" in f.detail + f.remedy]


def test_poor_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, findings: dict[str, Finding]
) -> None:
    """Without programs on PATH and with an unusable cache, the findings say so."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path / "file"))
    poor = {f.name: f for f in diagnose()}
    assert set(poor) == set(findings)
    for name in ("docker", "chromium", "java"):
        assert not poor[name].ok and not poor[name].required and poor[name].remedy
    assert not poor["default model"].ok and "INSTAR_CACHE" in poor["default model"].detail


def test_missing_torch_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)  # import torch raises ImportError
    (finding,) = doctor._torch()
    assert not finding.ok and finding.required and "make setup" in finding.remedy


def test_a_program_that_fails_or_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing, hanging = tmp_path / "failing", tmp_path / "hanging"
    failing.write_text("#!/bin/sh\necho oops >&2\nexit 3\n")
    hanging.write_text("#!/bin/sh\nexec sleep 60\n")
    for program in (failing, hanging):
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert doctor._ask("failing") == (3, "oops")
    assert doctor._ask("no-such-program") is None
    monkeypatch.setattr(doctor, "_PROBE_S", 0.5)
    hung = doctor._ask("hanging")
    assert hung is not None and hung[0] == 1 and "timed out" in hung[1]


def test_a_check_that_breaks_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def _broken() -> list[Finding]:
        raise RuntimeError("no such thing\nand more")

    monkeypatch.setattr(doctor, "_CHECKS", (_broken,))
    (finding,) = diagnose()
    assert finding.name == "broken" and not finding.ok
    assert finding.detail == "the check itself broke: no such thing"


def test_render_shows_remedies_only_where_needed() -> None:
    shown = [
        Finding(area="machine", name="good", ok=True, detail="[bold]seen", remedy="unneeded"),
        Finding(area="sandbox", name="bad", ok=False, detail="gone", remedy="install it"),
        Finding(area="extra", name="opt", ok=False, detail="none", remedy="if", required=False),
    ]
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(render(shown))
    text = console.export_text()
    assert "install it" in text and "missing" in text
    assert "unneeded" not in text and "[bold]seen" in text


def test_vllm_is_looked_for_where_it_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("INSTAR_CACHE", str(tmp_path))
    (missing,) = doctor._vllm()
    assert not missing.ok and not missing.required and "make vllm" in missing.remedy
    python = tmp_path / "vllm" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho 'ImportError: no torch' >&2; exit 1\n")
    python.chmod(0o755)
    (broken,) = doctor._vllm()
    assert not broken.ok and "broken: ImportError: no torch" in broken.detail
    python.write_text("#!/bin/sh\necho vllm 0.32.0\n")
    (found,) = doctor._vllm()
    assert found.ok and found.detail.startswith("vllm 0.32.0 in ")
