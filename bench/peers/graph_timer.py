"""How the peers are timed: fathom's method (fathom/testing/cuda/device_bench.h)."""
import json
import statistics

import torch

COLD_BYTES = 400 << 20  # of distinct buffers in one graph: more than the L2 holds


def random(*dims):
    return torch.randn(*dims, device="cuda", dtype=torch.bfloat16)


def distinct(shapes, most):
    """Sets of random tensors of these shapes, so many that going round them finds none in the L2; at most `most`."""
    bytes_each = 2 * sum(torch.Size(shape).numel() for shape in shapes)
    return [[random(*shape) for shape in shapes] for _ in range(max(3, min(most, COLD_BYTES // bytes_each)))]


def time_graph(work, nodes, flush):
    """Microseconds a call of work(i), i < nodes, captured as one CUDA graph: median of nine replays after two that
    warm up, each with an L2 cold and clean, since `flush` was read."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        work(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(nodes):
            work(i)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(11):
        flush.sum()
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / nodes)
    return statistics.median(times[2:])


def append_line(path, op, peer, case, us, **more):
    """A measured case as a JSON line of the file `path`."""
    record = {"op": op, "peer": peer, "case": case, **more, "us": round(us, 3), "device": torch.cuda.get_device_name()}
    with open(path, "a", encoding="utf-8") as out:
        print(json.dumps(record), file=out)
