from .base import Library


class XGBoost(Library):
    name = "xgboost"
    title = "XGBoost"
    wheels = ("xgboost", "numpy")
    shares_memory = False
    collectives = ("all_reduce", "broadcast")

    def command(self, place, turn):
        program = place.source("xgb.py")
        return [place.bin("python"), "-B", program, str(turn.ranks), *turn.arguments], {}
