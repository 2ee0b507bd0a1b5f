"""What card.sh has measured, beside torch's and what is asked for, a line each: bars.py RESULTS.jsonl STEP...
   Of torch the share of the peak is that of the operations which ours counts (distill/engine/cost.c), so
   both are of the same work. Memory is all that a process takes of the card."""
import json, re, sys

LIBRARY = {"ours": r"cuda-bf16", "compiled": r"torch \S+ compiled", "eager": r"torch \S+ eager"}


def number(pattern, line):
    found = re.search(pattern, line)
    return float(found.group(1)) if found else None


def measured(said, library):
    """Milliseconds, share of the peak in percent, MiB of the card; None where a line does not say."""
    for line in said.splitlines():
        if re.match(LIBRARY[library], line):
            return (number(r": ([\d.]+) ms", line), number(r"\(([\d.]+)% of", line),
                    number(r"of the card (\d+) MiB", line))
    return None, None, None


def tell(what, met, text):
    print(f"{what}: {text}: {'not measured' if met is None else 'met' if met else 'NOT MET'}")


said = {}
for line in open(sys.argv[1]):
    step = json.loads(line)
    if step["passed"]:
        said[step["step"]] = step["said"]
for what in sys.argv[2:]:
    ms, share, mib = measured(said.get(what, ""), "ours")
    torch = {name: measured(said.get("torch-" + what, ""), name) for name in ("compiled", "eager")}
    times = {name: t[0] / ms if ms and t[0] else None for name, t in torch.items()}
    shares = {name: share / t if share is not None and t else None for name, t in times.items()}
    show = lambda x, unit: "?" if x is None else f"{x:.{2 if unit == 'x' else 1 if unit == '%' else 0}f} {unit}"
    tell(what, times["compiled"] and times["compiled"] >= 1.1,
         f"speed {show(times['compiled'], 'x')} torch.compile's, {show(times['eager'], 'x')} eager's; "
         "at least 1.1 x torch.compile's is asked for")
    tell(what, None if share is None else share >= 40,
         f"MFU {show(share, '%')}, torch.compile {show(shares['compiled'], '%')}, "
         f"eager {show(shares['eager'], '%')}; at least 40 % is asked for")
    tell(what, mib and torch["compiled"][2] and mib <= torch["compiled"][2],
         f"memory {show(mib, 'MiB')}, torch.compile {show(torch['compiled'][2], 'MiB')}, "
         f"eager {show(torch['eager'][2], 'MiB')}; at most torch.compile's is asked for")
