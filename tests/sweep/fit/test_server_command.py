"""The printed commands, read by the functions with which llama-server reads its command line."""

import os
import shutil
import subprocess
import sysconfig
from pathlib import Path

import pytest
from hub_server import serve
from huggingface_hub import constants

from presets.long_context import Yarn
from sweep.fit.server_arguments import ServerSettings, server_words

LLAMA_CPP = Path(__file__).parents[3] / "build/peers/source/vendor/llama.cpp"
PROGRAM = Path(__file__).with_name("server_command.cpp")
EVERY_OPTION = ServerSettings(
    context=2048,
    sequences=2,
    gpu_layers=99,
    cpu_moe=3,
    tensor_split=(1.0, 2.5),
    overrides=r"blk\.1\.ffn_.*=CPU",
    kv_types=("q8_0", "q4_0"),
    batch=1024,
    ubatch=256,
    flash_attention=True,
    yarn=Yarn(4, 512),
)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not LLAMA_CPP.is_dir(), reason="make peers brings llama.cpp's sources"),
    pytest.mark.skipif(shutil.which("c++") is None, reason="there is no compiler"),
]


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    program = tmp_path_factory.mktemp("reader") / "reader"
    libraries = Path(sysconfig.get_path("platlib")) / "lib"
    includes = [f"-I{LLAMA_CPP / name}" for name in ("common", "include", "ggml/include", "vendor")]
    command = ["c++", "-std=c++17", "-o", program, PROGRAM, *includes, f"-L{libraries}", "-lllama-common", "-lllama"]
    command += ["-lggml", "-lggml-base", f"-Wl,-rpath,{libraries}", "-Wl,--disable-new-dtags"]
    subprocess.run(command, check=True, timeout=500)
    return program


def test_llama_server_understands_every_option_and_loads_the_files_that_are_meant(reader: Path, tmp_path: Path) -> None:
    directory = tmp_path / "r"
    (directory / "Q8_0").mkdir(parents=True)
    parts = [f"Q8_0/m-Q8_0-0000{number}-of-00002.gguf" for number in (1, 2)]
    for name in (*parts, "m-Q4_0.gguf", "mmproj-BF16.gguf", "mmproj-F16.gguf"):
        (directory / name).write_bytes(f"content of {name}".encode())
    with serve({"org/r": directory}) as hub:
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "LLAMA_CACHE": str(tmp_path)}

        def loaded(projector: str) -> list[str]:
            words = server_words(f"hub:org/r/{parts[0]}", EVERY_OPTION, projector)
            words = [word.replace(constants.ENDPOINT, hub.url) for word in words]
            done = subprocess.run([reader, *words], env=environment, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout.splitlines()[-3:]

        model, images, context = loaded("hub:org/r/mmproj-BF16.gguf")
        assert Path(model).read_text() == f"content of {parts[0]}"
        assert Path(model).with_name(Path(parts[1]).name).read_text() == f"content of {parts[1]}"
        assert Path(images).read_text() == "content of mmproj-BF16.gguf"
        assert context == "2048"
        assert loaded("")[1] == ""  # llama-server takes the projector file of a repository if it is not told otherwise
