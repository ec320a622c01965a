"""The fake CUDA runtime: built once per environment, then preloaded into Python processes.

    python tests/fakecuda/runtime.py SCRIPT.py [ARGUMENT...]    a script in this folder, or any other
    python tests/fakecuda/runtime.py nasx search ...            a whole nasx command (command.py)

Needs Linux on x86-64, gcc, nm, and the CUDA wheel of torch, whose packages include the headers and the symbol tables,
but no GPU, driver or CUDA toolkit. `missing()` returns what is absent. FAKE_GB=40 sets the memory of the device,
FAKE_DEVICES=2 the number of devices, and FAKE_REPORT=FILE makes a command write every wait and copy with its line to
FILE.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
REPO = HERE.parent.parent
SOURCES = ("runtime.c", "driver.c")
PRODUCTS = re.compile(r"[gG]emm|gemv|Matmul$|[Dd]ot")
"""Functions of cuBLAS that launch work."""
FLAGS = ("-O1", "-g", "-w", "-fno-builtin", "-fPIC")


def site() -> Path:
    """Return the folder of the installed packages."""
    found = find_spec("torch")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent.parent


def torch_version() -> tuple[str, str | None]:
    """Return the versions of torch and of the CUDA it is built for (None: without CUDA)."""
    values = runpy.run_path(str(site() / "torch" / "version.py"))
    return values["__version__"], values["cuda"]


def headers() -> list[Path]:
    """Return the include folders of the CUDA packages, then of Triton, which has the headers that they lack (crt/)."""
    folders = [*site().glob("nvidia/cu*/include"), *site().glob("nvidia/cuda_runtime/include")]
    return [f for f in sorted(folders) if (f / "cuda_runtime_api.h").is_file()]


def missing() -> str | None:
    """Return the reason why the runtime cannot be built here; None if it can."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "the fake CUDA runtime needs Linux on x86-64"
    for tool in ("gcc", "nm"):
        if not shutil.which(tool):
            return f"the fake CUDA runtime needs {tool}"
    version, cuda = torch_version()
    if cuda is None:
        return f"torch {version} is built without CUDA"
    if not headers() or not list(site().glob("nvidia/*/lib/libcudart.so.*")):
        return "the packages nvidia-cuda-runtime and triton, which come with torch, are absent"
    if ctypes.util.find_library("cuda"):
        return "a CUDA driver is installed: tests/program/test_gpu.py tests this machine"
    return None


def symbols(path: Path, *options: str) -> set[str]:
    """Return the names in the dynamic symbol table of a library, without their versions."""
    text = subprocess.run(["nm", "-D", *options, str(path)], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in text.splitlines() if line.strip()}


def compiled(source: Path, target: Path, *flags: str) -> set[str]:
    """Compile a C source; return the functions that the object file defines (headers rename some)."""
    subprocess.run(["gcc", *FLAGS, *flags, "-c", str(source), "-o", str(target)], check=True)
    text = subprocess.run(["nm", "--defined-only", str(target)], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1] for line in text.splitlines() if line.split()[-2] == "T"}


def build(folder: Path) -> None:
    """Write libfakecuda.so (runtime and cuBLAS) and libcuda.so.1 (driver) into `folder`."""
    _, cuda = torch_version()
    assert cuda is not None
    asked: set[str] = set()
    for library in [*site().glob("torch/lib/*.so"), *site().glob("nvidia/*/lib/*.so*")]:
        if not library.is_symlink() and "libcudart" not in library.name:
            asked |= symbols(library, "--undefined-only")
    cudart = sorted(site().glob("nvidia/*/lib/libcudart.so.*"))[0]
    offered = {n for n in symbols(cudart, "--defined-only") if n.startswith(("cuda", "__cuda"))}
    declared = set(re.findall(r"CUDAAPI\s+(cu[A-Z]\w+)\s*\(", (headers()[0] / "cuda.h").read_text(encoding="utf-8")))
    include = [f"-I{f}" for f in (*headers(), site() / "triton/backends/nvidia/include")]

    own = compiled(HERE / "runtime.c", folder / "runtime.o", *include)
    rest = sorted((offered | {n for n in asked if n.startswith("cublas")}) - own)
    launches = {n for n in rest if n.startswith("cublas") and PRODUCTS.search(n)}
    (folder / "rest.c").write_text(
        "extern int fake_gemm(void);\n"
        + "".join(f"int {n}(void) {{ return {'fake_gemm()' if n in launches else '0'}; }}\n" for n in rest),
        encoding="utf-8",
    )
    number = int(cuda.split(".")[0]) * 1000 + int(cuda.split(".")[1]) * 10
    driver = compiled(HERE / "driver.c", folder / "driver.o", f"-DFAKE_CUDA_VERSION={number}")
    names = ({n for n in asked if re.match(r"cu[A-Z]", n)} | declared | {f"{n}_v2" for n in declared}) - driver
    (folder / "names.c").write_text(
        "".join(f"int {n}(void) {{ return 0; }}\n" for n in sorted(names)), encoding="utf-8"
    )
    for library, parts in (
        ("libfakecuda.so", ("runtime.o", "rest.c", "-lpthread")),
        ("libcuda.so.1", ("driver.o", "names.c", "-Wl,-soname,libcuda.so.1")),
    ):
        subprocess.run(["gcc", *FLAGS, "-shared", *parts, "-o", library], cwd=folder, check=True)
    (folder / "libcuda.so").symlink_to("libcuda.so.1")


def built() -> Path:
    """Return the folder of the libraries for this environment and these sources, built on the first call."""
    sources = b"".join((HERE / name).read_bytes() for name in (*SOURCES, Path(__file__).name))
    key = hashlib.sha256(sources + repr((str(site()), torch_version())).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"nasx-fakecuda-{os.getuid()}-{key}"
    if not folder.exists():
        draft = Path(tempfile.mkdtemp(dir=tempfile.gettempdir(), prefix="nasx-fakecuda-draft-"))
        build(draft)
        try:
            draft.rename(folder)
        except OSError:  # another process was faster
            shutil.rmtree(draft)
    return folder


def environment(**more: str) -> dict[str, str]:
    """Return the environment of a process on the fake runtime."""
    folder = str(built())
    folders = (HERE, REPO / "tests" / "support", REPO / "tests", REPO)
    path = os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {
        **os.environ,
        "PYTHONPATH": path,
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
        "COLUMNS": "160",
        "TRITON_CACHE_DIR": f"{folder}/triton",
        "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor",
        "LD_LIBRARY_PATH": folder,
        "TRITON_LIBCUDA_PATH": folder,
        "LD_PRELOAD": f"{folder}/libfakecuda.so",
        **more,
    }


def words(name: str, *arguments: str) -> list[str]:
    """Return the command line of a script in this folder, of another script, or (`nasx`) of a nasx command."""
    script = HERE / ("command.py" if name == "nasx" else name)
    return [sys.executable, str(script if script.is_file() else name), *arguments]


if __name__ == "__main__":
    if why := missing():
        sys.exit(why)
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    line = words(*sys.argv[1:])
    os.execve(line[0], line, environment())
