"""Wrong argument sets for each command: a hurried hand's, or a script's with an empty variable.

`IMAGE` is a picture, `OUT` a new folder, `FILE` a text file."""

from __future__ import annotations

from itertools import product

EDIT = ["edit", "--image", "IMAGE", "--prompt", "blue", "--out", "OUT"]
_ODD = ["", " ", "nan", "inf", "-inf", "1e999", "abc", "--", "0x10", "1,5", "½", "\0", "\udcff", "9" * 5000]
_NUMBERS = {
    "--threshold": ["-5", "-0.001", "1.0001", "2", "100"],
    "--steps": ["0", "-1", "1001", "2.5"],
    "--guidance": ["-1", "100.5"],
    "--image-guidance": ["-1", "1000"],
    "--temperature": ["-1", "0.0001", "1000"],
    "--max-new-tokens": ["0", "-7", "65537", "1.5"],
    "--max-pixels": ["0", "-1", "783", "1e6"],
    "--budgets": [
        "64",
        "1,2,3",
        "1,2,3,4,5",
        "1,2,3,-4",
        "64, 64,64,64",
        "1,2,3,4.5",
        "64,64,64,8",
        "9999,1,1,99",
    ],
    "--seed": ["-1", str(2**63), "1.5"],
}
_PATHS = [
    "",
    "\0",
    "/nope/x.png",
    "FILE/x",
    "x" * 5000,
    "~nobody-here/x.png",
    "/dev/null",
    "FILE",
    "http://x/y.png",
]
_NAMES = ["", " ", "detector=", "reasoner= ", "=", "colour=bundled", "no-such", "someone/model"]
_NAMES += ["someone/model@1", "~nobody-here/m", "\0", "x" * 5000, "FILE", "/", "detector=IMAGE", "none"]
_NAMES += ["reasoner=none"]
_FOLDERS = ["", " ", "/nope", "FILE", "\0", "x" * 5000, "~nobody-here"]
_OUTS = ["", "\0", "FILE", "FILE/deep", "/proc/x", "x" * 300, "~nobody-here"]
_DEMO = ["", "\0", "x.jpg", "x", "FILE", "FILE/x.png", "/proc/x.png", "x" * 300 + "/y.png"]

WRONG: dict[str, list[list[str]]] = {
    "edit": [
        ["edit"],
        ["edit", "--image", "IMAGE"],
        ["edit", "--out", "OUT", "--prompt", "x"],
        ["edit", "--image", "IMAGE", "--out", "OUT"],
        ["edit", "IMAGE", "OUT"],
        [*EDIT, "more"],
        [*EDIT, "--nonsense"],
        [*EDIT, "--nonsense=1"],
        [*EDIT, "--re", "IMAGE"],
        [*EDIT, "--prompt"],
        [*EDIT, "--models"],
        [*EDIT, "--prompt", "\udcff"],
        [*EDIT, "--prompt", "x" * 20_001],
        [*EDIT, "--prompt", " ", "--reference-text", " "],
        *([*EDIT, flag, value] for flag, wrong in _NUMBERS.items() for value in [*wrong, *_ODD]),
        *([*EDIT, flag, value] for flag, value in product(["--reference", "--reference-video"], _PATHS)),
        *([*EDIT, "--reference-depth", value] for value in _PATHS),
        *([*EDIT, "--image", value] for value in _PATHS),
        *([*EDIT, "--frames", value] for value in ["", "x", "-1:3", "5:2", "0:9:0", "1:2:3:4", "nan:"]),
        *([*EDIT, "--fps", value] for value in ["", "0", "-3", "nan", "inf", "x", "1e9"]),
        *([*EDIT, "--adapter", value] for value in _PATHS),
        *([*EDIT, "--out", value] for value in _OUTS),
        *([*EDIT, "--models", value] for value in _NAMES),
        *([*EDIT, "--models", "bundled", value] for value in ["", "detector=", "no-such"]),
        *([*EDIT, "--folder", value] for value in ["", "/nope", "FILE", "\0", "x" * 5000]),
        *(
            [*EDIT, "--device", value]
            for value in ["", "gpu", "cuda:99", "mps:7", "tpu", "cpu:x", "\0", "xpu"]
        ),
        *([*EDIT, "--dtype", value] for value in ["", "fp8", "float32", "BF16"]),
        *([*EDIT, "--quantize", value] for value in ["", "8bit", "none"]),
        [*EDIT, "--quantize", "4bit", "--device", "mps"],
        [*EDIT, "--endpoint", "http://127.0.0.1:9"],
        [*EDIT, "--endpoint-model", "m"],
        [*EDIT, "--endpoint", "https://x/v1", "--endpoint-model", "m", "--adapter", "FILE"],
        [*EDIT, "--endpoint", "https://x/v1", "--endpoint-model", "m", "--quantize", "4bit"],
        [*EDIT, "--endpoint", "https://x/v1", "--endpoint-model", "m", "--compile"],
        *(
            [*EDIT, "--endpoint-model", "m", "--endpoint", value]
            for value in ["ftp://x", "http://", "x", "http://x:99999", "http://[::1", "http://a b", "\0"]
        ),
    ],
    "serve": [
        ["serve", "more"],
        ["serve", "--model"],
        *(["serve", "--model", value] for value in _NAMES),
        *(["serve", "--port", value] for value in ("-1", "65536", "x", "")),
        *(["serve", "--host", value] for value in ("", " ", "0.0.0.0", "no such host", "\0")),
        *(["serve", "--max-body", value] for value in ("0", "x", "4096")),
        *(["serve", "--adapter", value] for value in _PATHS),
        *(["serve", "--folder", value] for value in _FOLDERS),
        ["serve", "--quantize", "8bit"],
        ["serve", "--max-pixels", "1"],
    ],
    "models": [
        ["models", "more"],
        ["models", "--nonsense"],
        ["models", "--download"],
        ["models", "--folder"],
        *(["models", "--folder", value] for value in _FOLDERS),
        *(
            ["models", "--download", value]
            for value in [*_NAMES, "bundled", "photo", "a/b/c", "a/b@" + "g" * 40]
        ),
        *(
            ["models", "--download", "sam2.1-tiny", "--folder", value]
            for value in ["", "FILE", "FILE/deep", "/proc/x", "\0", "x" * 300, "~nobody-here"]
        ),
        ["models", "--download", "sam2.1-tiny", "--folder", "OUT", "--folder", "OUT"],
        *(["models", "--download", "sam2.1-tiny", value] for value in _NAMES),
    ],
    "doctor": [
        ["doctor", "more"],
        ["doctor", "--folder"],
        *(["doctor", "--folder", value] for value in _FOLDERS),
    ],
    "steadiness": [
        ["steadiness"],
        ["steadiness", "FILE"],
        ["steadiness", "FILE", "FILE"],
        ["steadiness", "FILE", "FILE", "FILE"],
        ["steadiness", "nowhere.gif", "nowhere.gif"],
        *(["steadiness", "FILE", "FILE", "--border", value] for value in ("0", "-1", "x", "")),
        ["steadiness", "FILE", "FILE", "--flow", "dis"],
        ["steadiness", "FILE", "FILE", "--mask"],
        ["steadiness", "FILE", "FILE", "--out", "FILE/deep"],
    ],
    "scene": [
        ["scene"],
        ["scene", "render"],
        ["scene", "info"],
        *(
            ["scene", "info", value]
            for value in ("FILE", "IMAGE", "nowhere.ply", "", "\0", "~nobody-here/a.ply")
        ),
        *(
            ["scene", "convert", "FILE", value]
            for value in ("b.ply", "b.glb", "b", "FILE", "IMAGE", "", "\0")
        ),
        *(["scene", "convert", "FILE", "b.ply", "--degree", value] for value in ("4", "-1", "x", "1.5", "")),
        ["scene", "convert", "FILE", "b.ply", "--folder", "OUT"],
        ["scene", "convert", "FILE", "FILE/deep.ply"],
    ],
    "demo": [
        ["demo", "more"],
        ["demo", "--out"],
        ["demo", "--folder", "OUT"],
        *(
            ["demo", "--out", v]
            for v in ["", "\0", "x.jpg", "x", "FILE", "FILE/x.png", "/proc/x.png", "x" * 300 + "/y.png"]
        ),
    ],
}
_JUNK = [
    "--x",
    "-x",
    "--out=",
    "\0",
    "\udcff",
    "'",
    "%s",
    "{}",
    "$(id)",
    "`",
    "\n",
    "\x1b[31m",
    "--=",
    "=",
    "-",
    "é" * 99,
]
for _command, _sets in WRONG.items():  # to 200 of each: unknown flags and stray words, alone and in pairs
    for _pair in [[a] for a in _JUNK] + [list(pair) for pair in product(_JUNK, _JUNK)]:
        _set = [_command, *_pair] if _command != "edit" else [*EDIT, *_pair]
        if len(_sets) < 200 and _pair not in (["--out="],):
            _sets.append(_set)
