"""Placements of layers on devices; the slow tests compare them with llama.cpp's own `llama-fit-params`."""

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from converters.config_source import ConfigSource
from converters.llamacpp import rpc
from converters.llamacpp.ghost import ghost
from converters.plan import plan_file
from converters.recipes import recipe
from presets.catalogue import models
from sweep.fit.fit_model import fit_model
from sweep.fit.fit_report import HOST, FitOptions
from sweep.fit.hardware import Device
from sweep.fit.layer_bytes import LayerPart
from sweep.fit.placement import FitMachine, LayerPlacement, place_layers, place_whole_layers, proportional

MIB = 1 << 20
ROOT = Path(__file__).parents[3]
TOOL = ROOT / "build/peers/bin/llama-fit-params"
with_rpc = pytest.mark.skipif(not rpc.supported(), reason="this build of llama.cpp has no RPC")


def uniform_memory(size: int, experts: int = 0, output: int = 3) -> Callable[[LayerPlacement], list[int]]:
    """The memory of a model whose layers each need `size`, including `experts` for experts, and its output `output`."""

    def memory(placement: LayerPlacement) -> list[int]:
        used = [0] * len(placement.layers)
        for device in range(len(used)):
            used[device] = sum(output if layer == placement.total - 1 else size for layer in placement.span(device))
        shares = {
            LayerPart.EXPERTS: 1.0,
            LayerPart.FEED_FORWARD: 1.0,
            LayerPart.GATE_AND_DOWN: 2 / 3,
            LayerPart.DOWN: 1 / 3,
        }
        for layer, part, device in placement.split_layers():
            owner = next(index for index in range(len(used)) if layer in placement.span(index))
            moved = round(experts * shares[part])
            used[owner] -= moved
            if device is not None:
                used[device] += moved
        return used

    return memory


@pytest.mark.parametrize(("total", "shares"), [(37, (1, 1)), (62, (21, 41)), (10, (3, 7, 0)), (5, (0.1, 99.9))])
def test_layers_are_divided_in_order_and_all_are_placed(total: int, shares: tuple[float, ...]) -> None:
    layers = proportional(total, shares)
    assert sum(layers) == total
    for one, share in zip(layers, shares, strict=True):
        assert abs(one - total * share / sum(shares)) <= 1
    if sum(shares) == total:
        assert layers == shares  # llama.cpp gets a placement as the number of layers per device


def test_a_model_that_fits_has_the_default_placement() -> None:
    placed = place_layers(11, [60, 60], [60, 60], False, uniform_memory(10))
    assert placed.is_full
    assert placed.layers == (6, 5)


def test_dense_layers_fill_the_last_device_first_and_the_rest_stays_in_ram() -> None:
    placed = place_layers(21, [50, 50], [50, 50], False, uniform_memory(10))
    assert placed.layers == (5, 5)  # 5 layers; 4 and the output
    assert placed.in_ram == 11
    assert placed.tensor_overrides() == ()


def test_experts_go_to_ram_before_layers_do() -> None:
    memory = uniform_memory(10, experts=9)
    placed = place_layers(21, [60], [60], True, memory)
    assert placed.layers == (21,)
    assert memory(placed)[0] <= 60
    whole = sum(1 for layer in range(20) if layer not in {one for one, _, _ in placed.split_layers()})
    assert whole == 4  # 20 x 1 + 3 for the output leaves 37: four times 9 for experts
    assert [layer for layer, _, _ in placed.split_layers()] == list(range(whole, 20))


def test_a_part_of_a_layer_uses_room_that_is_too_small_for_a_whole_layer() -> None:
    placed = place_layers(21, [58], [58], True, uniform_memory(10, experts=9))
    first = placed.split_layers()[0]
    assert first == (3, LayerPart.DOWN, None)
    assert {part for _, part, _ in placed.split_layers()[1:]} == {LayerPart.EXPERTS}


def test_with_two_devices_the_other_part_goes_to_the_next_one() -> None:
    placed = place_layers(21, [40, 45], [40, 45], True, uniform_memory(10, experts=9))
    places = {device for _, part, device in placed.split_layers() if part is not LayerPart.EXPERTS}
    assert places <= {1, None}
    assert all(used <= room for used, room in zip(uniform_memory(10, 9)(placed), (40, 45), strict=True))


def test_experts_fill_every_device_in_order() -> None:
    memory = uniform_memory(10, experts=9)
    placed = place_layers(31, [60] * 3, [60] * 3, True, memory)
    assert placed.layers == (6, 6, 19)  # two devices full of whole layers; the rest is on the last one
    assert memory(placed)[:2] == [60, 60]
    without_experts = {layer for layer, _, _ in placed.split_layers()}
    assert without_experts == set(range(16, 30))  # 18 x 1 + 3 for the output leaves 39: four times 9 for experts


E, F, G, D = LayerPart.EXPERTS, LayerPart.FEED_FORWARD, LayerPart.GATE_AND_DOWN, LayerPart.DOWN


@pytest.mark.parametrize(
    ("total", "targets", "experts", "layers", "partial", "first_part"),
    [
        (9, [14, 26, 14], 9, (2, 4, 3), (1, 3, 2), (F, E, E)),  # the feed-forward part of layer 1 is on the next device
        (21, [40, 23], 9, (9, 12), (6, 11), (E, E)),
        (13, [40, 9, 9], 8, (8, 4, 1), (5, 4, 0), (E, E, E)),
        (13, [33, 33], 8, (3, 10), (0, 9), (E, G)),
        (12, [20, 31], 9, (2, 10), (0, 8), (E, F)),
        (21, [40, 45], 9, (4, 17), (0, 15), (E, D)),
        (13, [24, 3, 33], 8, (2, 0, 11), (0, 0, 10), (E, E, F)),
        (4, [10, 2], 9, (4, 0), (4, 0), (E, E)),  # 3 layers of 1 and the output, which is too large for the last device
        (7, [12, 13], 6, (3, 2), (3, 1), (E, E)),  # fits exactly
        (9, [7, 7], 9, (7, 1), (7, 0), (E, E)),
    ],
)
def test_models_with_experts_are_placed_step_by_step(
    total: int,
    targets: list[int],
    experts: int,
    layers: tuple[int, ...],
    partial: tuple[int, ...],
    first_part: tuple[LayerPart, ...],
) -> None:
    """Layers of 10 bytes with an output of 3. The slow tests compare the same steps with llama-fit-params."""
    placed = place_layers(total, targets, targets, True, uniform_memory(10, experts))
    assert placed == LayerPlacement(total, layers, partial, first_part)


def test_room_for_all_layers_without_experts_must_remain_before_experts_are_added() -> None:
    # 3 layers of 9 without experts and the output need 30, which is all there is: no experts are added
    placed = place_layers(4, [19, 11], [19, 11], True, uniform_memory(10, experts=1))
    assert placed == LayerPlacement(4, (2, 1), (2, 0), (E, E))


def test_whole_layers_are_moved_to_the_device_with_room() -> None:
    memory = uniform_memory(10, experts=9)
    assert place_whole_layers(4, [60, 60], [60, 60], memory) == LayerPlacement.whole(4, (2, 2))  # the default fits
    assert place_whole_layers(4, [60, 60], [30, 5], memory) == LayerPlacement.whole(4, (3, 1))
    assert place_whole_layers(4, [60, 60], [30, 13], memory) == LayerPlacement.whole(4, (2, 2))  # fits exactly
    assert place_whole_layers(4, [60, 60], [29, 5], memory) == LayerPlacement.whole(4, (2, 2))  # nothing fits
    assert place_whole_layers(4, [60], [29], memory) == LayerPlacement.whole(4, (4,))


def test_split_layers_with_the_same_part_and_device_share_a_pattern() -> None:
    placed = LayerPlacement(8, (3, 4), (2, 2), (LayerPart.DOWN, LayerPart.EXPERTS))
    assert placed.split_layers() == [(2, D, 1), (3, E, None), (6, E, None)]  # layer 7 is the output
    assert placed.tensor_overrides() == (
        (r"blk\.2\.ffn_down.*", 1),
        (r"blk\.(3|6)\.ffn_(up|down|gate_up|gate)_(ch|)exps", None),
    )


def test_one_large_share_gets_all_layers_and_no_share_none() -> None:
    assert proportional(3, [0, 2, 0]) == (0, 3, 0)
    assert proportional(3, [0, 0]) == (0, 0)
    assert proportional(4, [1, 2, 1]) == (1, 2, 1)


def test_the_host_is_named_measured_or_unknown() -> None:
    gpu = Device("a gpu", "cuda", 100, 90, None, False, 10)
    host = Device("the host", "cpu", 50, 40, None, True, 0)
    assert FitMachine.of([gpu, host]) == FitMachine((gpu,), host)
    measured = FitMachine.of([gpu]).host
    assert measured is not None
    assert measured.total_bytes == psutil.virtual_memory().total
    assert 0 < measured.usable_bytes < measured.total_bytes
    assert (measured.name, measured.kind, measured.simulated) == (HOST, "cpu", False)
    assert (measured.bandwidth, measured.reserve_bytes) == (None, 0)
    assert FitMachine.of([Device("a gpu", "cuda", 100, 90, None, True, 10)]).host is None


def test_layers_of_a_machine_are_divided_by_usable_memory_and_targets_leave_the_reserve() -> None:
    gpus = [Device("", kind, 99, room, None, True, 10) for kind, room in (("rpc", 75), ("metal", 25), ("cuda", 4))]
    machine = FitMachine.of(gpus)
    assert machine.targets == [65, 15, 0]
    assert machine.shared == [False, True, False]
    assert machine.everything(104) == LayerPlacement.whole(104, (75, 25, 4))
    assert [FitMachine((one,), None).copies_weights for one in gpus] == [False, True, True]
    assert not FitMachine((), None).copies_weights


def test_without_room_every_layer_stays_in_ram() -> None:
    placed = place_layers(21, [2, 2], [2, 2], False, uniform_memory(10))
    assert placed.on_devices == 0
    assert place_whole_layers(21, [2, 2], [2, 2], uniform_memory(10)).is_full  # what all of it would take


@with_rpc
def test_rpc_servers_end_with_their_context_and_listen_on_the_loopback_only() -> None:
    with rpc.simulated_devices(2) as devices:
        (server,) = rpc_servers()
        listening = [one.laddr.ip for one in server.net_connections() if one.status == psutil.CONN_LISTEN]
        assert listening == ["127.0.0.1"]
        assert len(devices) == 2
    assert not server.is_running()
    with contextlib.suppress(ZeroDivisionError), rpc.simulated_devices(1):
        (server,) = rpc_servers()
        raise ZeroDivisionError
    assert not server.is_running()


def rpc_servers() -> list[psutil.Process]:
    """The RPC servers that this process started; other tests may have left dead children."""
    alive = [child for child in psutil.Process().children() if child.status() != psutil.STATUS_ZOMBIE]
    return [child for child in alive if "rpc_server.py" in " ".join(child.cmdline())]


@with_rpc
def test_a_server_ends_if_its_owner_is_killed() -> None:
    script = (
        "import time\nfrom converters.llamacpp import rpc\n"
        "with rpc.server(1) as at:\n    print(at, flush=True)\n    time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=ROOT) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline().startswith("127.0.0.1:")
        (server,) = psutil.Process(owner.pid).children()
        owner.send_signal(signal.SIGKILL)
    end = time.monotonic() + 10
    while server.is_running() and server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < end:
        time.sleep(0.02)
    assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE


# model, quant, MiB that the model may use of each device, context
CASES = [
    ("Qwen3-4B", "Q4_K_M", (2000,), 4096),
    ("Qwen3-32B", "Q4_K_M", (9000, 7000), 8192),
    ("Qwen3-30B-A3B", "Q4_K_M", (12000,), 8192),
    ("Qwen3-30B-A3B", "Q6_K", (6000, 9000), 16384),
    ("Qwen3-30B-A3B", "Q2_K", (1000,), 8192),
    ("Qwen3-30B-A3B", "Q4_K_M", (6656,), 39424),  # the longest context with 15 GiB of RAM
    ("Qwen3.5-27B", "Q4_K_M", (12000, 4000), 32768),
    ("Qwen3.5-35B-A3B", "Q3_K_M", (8000, 6000), 8192),
]


@pytest.mark.slow
@with_rpc
@pytest.mark.parametrize(("model", "quant", "rooms", "context"), CASES, ids=str)
def test_layers_are_placed_as_llama_fit_params_places_them(
    model: str, quant: str, rooms: tuple[int, ...], context: int, tmp_path: Path
) -> None:
    # Models without multi-token prediction: llama-fit-params does not count these layers, although llama.cpp does.
    config = dict(models()[model].config) | {"mtp_num_hidden_layers": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    source = ConfigSource.open(tmp_path, mtp=0)
    with ghost(source.structure, source.tensors) as path:
        plan = plan_file(source, recipe(quant), path)
    with ghost(source.structure, plan.tensors) as path, rpc.server(len(rooms)) as server:
        command = [TOOL, "--rpc", server, "-m", path, "-c", str(context), "-np", "1"]
        said = subprocess.run([*command, "-fitt", "0", "-lv", "5"], capture_output=True, text=True, check=True)
        (found,) = re.findall(r"vs\. (\d+) MiB of free device memory", said.stderr + said.stdout)[:1]
        free = int(found) // len(rooms)
        margins = ",".join(str(free - room) for room in rooms)
        theirs = subprocess.run([*command, "-fitt", margins], capture_output=True, text=True, check=True).stdout
    devices = [Device("", "rpc", free * MIB, free * MIB, None, True, (free - room) * MIB) for room in rooms]
    (row,) = fit_model(str(tmp_path), [quant], devices, FitOptions(context)).rows
    assert layers_on_devices(row.arguments) == layers_on_devices(theirs)
    # llama-fit-params loads each placement; this program loads one per kind. The results differ by one layer at most.
    for one, other in zip(split(row.arguments), split(theirs), strict=True):
        assert abs(one - other) <= 1
    for one, other in zip(experts_elsewhere(row.arguments), experts_elsewhere(theirs), strict=True):
        assert abs(one - other) <= 1


def layers_on_devices(arguments: str) -> int:
    return int(re.findall(r"-ngl (\d+)", arguments)[0])


def split(arguments: str) -> list[int]:
    return [int(count) for found in re.findall(r"-ts (\S+)", arguments) for count in found.split(",")]


def experts_elsewhere(arguments: str) -> tuple[int, int]:
    """The number of layers whose experts are in RAM, and the number of layers with another part elsewhere."""
    patterns = re.findall(r"blk\\\.\(?([\d|]+)\)?\\\.ffn_(\S+?)=", arguments)
    whole = [layer for layers, part in patterns if part.endswith("exps") for layer in layers.split("|")]
    return len(whole), sum(not part.endswith("exps") for _, part in patterns)


def test_a_layer_divided_between_two_devices_leaves_nothing_in_ram() -> None:
    divided = LayerPlacement(5, (2, 3), (1, 0), (LayerPart.FEED_FORWARD, LayerPart.EXPERTS))
    assert [device for _, _, device in divided.split_layers()] == [1]
    assert divided.is_full
    assert not LayerPlacement(5, (2, 3), (1, 0), (LayerPart.EXPERTS, LayerPart.EXPERTS)).is_full  # experts go to RAM
    assert not LayerPlacement.whole(5, (2, 2)).is_full
