"""Where a library lives: its virtual environment and its programs, in a folder of the cache, made once."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROGRAMS = HERE / "programs"
SETUP_SECONDS = 1800


class Failed(Exception):
    """Why a library cannot be measured, in one line."""


def cache_folder(chosen=None):
    base = chosen or os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).expanduser().resolve() / "ringfold-peers"


def last_line(text):
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if "error" in line.lower()]
    return (telling or lines or ["it said nothing"])[-1][:300]


class Place:
    def __init__(self, cache, name, ringfold=None):
        self.folder = cache / name
        self.venv = self.folder / "venv"
        self.repository = HERE.parent.parent
        self.ringfold = ringfold

    def told(self, words, folder=None, environment=None, own=False):
        """Runs a step of the set-up; `own` steps show what they say."""
        try:
            done = subprocess.run(
                [str(word) for word in words],
                cwd=folder,
                env={**os.environ, **{name: str(value) for name, value in (environment or {}).items()}},
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr if own else subprocess.PIPE,
                stderr=None if own else subprocess.STDOUT,
                text=True,
                timeout=SETUP_SECONDS,
            )
        except FileNotFoundError as error:
            raise Failed(f"{words[0]} is not installed") from error
        except subprocess.TimeoutExpired as error:
            raise Failed(f"{Path(words[0]).name} took more than {SETUP_SECONDS} s") from error
        if done.returncode != 0:
            raise Failed(f"{Path(words[0]).name}: {last_line(done.stdout or '')}")

    def install(self, wheels):
        """A virtual environment with these wheels; a mark tells that it is whole."""
        if not wheels:
            return
        mark, wanted = self.venv / ".whole", " ".join([sys.version.split()[0], *wheels])
        if mark.exists() and mark.read_text() == wanted:
            return
        shutil.rmtree(self.venv, ignore_errors=True)
        self.told([sys.executable, "-m", "venv", self.venv])
        pip = [self.venv / "bin/python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        self.told([*pip, *wheels])
        mark.write_text(wanted)

    def compile(self, source, compiler, environment=None, libraries=()):
        """Compiles a program of `programs/`, unless this very source was compiled so before."""
        words = [str(word) for word in compiler]
        text = "".join(path.read_text() for path in (PROGRAMS / source, *sorted(PROGRAMS.glob("*.h"))))
        wanted = hashlib.sha256("\n".join([text, *words, *libraries]).encode()).hexdigest()
        program, mark = self.program(source), Path(self.program(source) + ".made-of")
        if mark.exists() and mark.read_text() == wanted and Path(program).exists():
            return
        Path(program).parent.mkdir(parents=True, exist_ok=True)
        self.told([*words, PROGRAMS / source, "-o", program, *libraries], environment=environment)
        mark.write_text(wanted)

    def program(self, source):
        return str(self.folder / "programs" / source.split(".")[0])

    def source(self, name):
        return str(PROGRAMS / name)

    def bin(self, name):
        return str(self.venv / "bin" / name)

    def lib(self):
        return str(self.venv / "lib")

    def intel(self):
        """What Intel's libraries need to find themselves in a virtual environment."""
        return {"I_MPI_ROOT": str(self.venv), "LD_LIBRARY_PATH": self.lib(), "FI_PROVIDER_PATH": self.lib()}

    def version_of(self, wheel):
        name = wheel.split(">")[0].split("=")[0]
        code = "import importlib.metadata, sys; print(importlib.metadata.version(sys.argv[1]))"
        done = subprocess.run([self.bin("python"), "-c", code, name], capture_output=True, text=True)
        return done.stdout.strip()
