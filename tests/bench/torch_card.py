"""What step.py and pass.py share: the card, and how much of it torch takes at most, in words."""
import gc
import torch

device = "cuda" if torch.cuda.is_available() else "cpu"


def wait():
    if device == "cuda":
        torch.cuda.synchronize()


def reset_taken():
    if device == "cuda":
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def taken():
    """As print_taken of bench.h: all of the process, so what its allocator holds at most, and the rest."""
    if device != "cuda":
        return ""
    free, total = torch.cuda.mem_get_info()
    rest = total - free - torch.cuda.memory_reserved()
    return f", of the card {(torch.cuda.max_memory_reserved() + rest) / 2**20:.0f} MiB taken"
