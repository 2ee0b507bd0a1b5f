"""Whether the tensors 'latents' of two safetensors files are near each other: near.py A B MOST, of the
   largest difference over the largest value. Needs nothing but Python."""
import array, json, sys


def latents(path):
    data = open(path, "rb").read()
    n = int.from_bytes(data[:8], "little")
    begin, end = json.loads(data[8:8 + n])["latents"]["data_offsets"]
    return array.array("f", data[8 + n + begin:8 + n + end])


a, b = latents(sys.argv[1]), latents(sys.argv[2])
off = max(abs(x - y) for x, y in zip(a, b)) / max(map(abs, a))
print(f"{sys.argv[2]}: off by {off:.2g}, {sys.argv[3]} is allowed")
sys.exit(not (len(a) == len(b) and off <= float(sys.argv[3])))
