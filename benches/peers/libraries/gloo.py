from .base import Library


class Gloo(Library):
    name = "gloo"
    title = "Gloo (PyTorch)"
    wheels = ("torch", "numpy")
    shares_memory = False

    def command(self, place, turn):
        program = place.source("gloo.py")
        return [place.bin("python"), "-B", program, str(turn.ranks), *turn.arguments], {"GLOO_SOCKET_IFNAME": "lo"}
