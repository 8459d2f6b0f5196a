"""Make two wrong copies of a checkpoint, for `pyproject.toml` beside this file.

    python make_checkpoints.py CHECKPOINT TARGET

TARGET/rope: another rope_theta in config.json. TARGET/bos: a chat template that begins with a second BOS.
Weights are links: what is wrong here is what people get wrong when they export a model.
"""

import json
import shutil
import sys
from pathlib import Path


def copy_checkpoint(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.suffix == ".safetensors":
            (target / file.name).symlink_to(file)
        elif file.is_file():
            shutil.copy(file, target)
    return target


def main(source: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    config_file = copy_checkpoint(source, target / "rope") / "config.json"
    config = json.loads(config_file.read_text())
    config["rope_parameters"]["rope_theta"] /= 10
    config_file.write_text(json.dumps(config, indent=2))
    template = copy_checkpoint(source, target / "bos") / "chat_template.jinja"
    template.write_text("{{ bos_token }}" + template.read_text())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
