"""The other side of benchmarks/throughput.py: nnU-Net's own trainer, or its augmentation alone, for ever.

Runs in an environment of its own (see throughput.py). The steps are those of ``nnUNetTrainer.run_training``: its
network, loss, optimiser, deep supervision and augmentation workers, on the CPU as ``nnUNetv2_train -device cpu``
sets it up; only the epochs are left out. Prints as throughput_foveate.py does.
"""

from __future__ import annotations

import argparse
import json
import os
from contextlib import redirect_stdout
from pathlib import Path

import torch
from batchgenerators.dataloading.single_threaded_augmenter import SingleThreadedAugmenter
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("dataset", type=Path, help="folder of the preprocessed dataset")
    parser.add_argument("--patch", type=int, nargs=3, required=True)
    parser.add_argument("--batch", type=int, required=True)
    parser.add_argument("--widths", type=int, nargs=4, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--augmentation-only", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    plans = json.loads((arguments.dataset / "nnUNetPlans.json").read_text(encoding="utf-8"))
    dataset = json.loads((arguments.dataset / "dataset.json").read_text(encoding="utf-8"))
    configuration = plans["configurations"]["3d_fullres"]
    configuration["patch_size"], configuration["batch_size"] = arguments.patch, arguments.batch
    network = configuration["architecture"]["arch_kwargs"]
    if len(network["features_per_stage"]) != len(arguments.widths):
        raise SystemExit(f"nnU-Net planned {network['features_per_stage']}, which has another depth")
    network["features_per_stage"] = arguments.widths
    plans["continue_training"] = False  # its run_training adds this key
    if arguments.augmentation_only:
        os.environ |= {"nnUNet_n_proc_DA": "0"}  # the loader and its transforms in this process
    with redirect_stdout(open(os.devnull, "w")):  # noqa: PTH123
        trainer = nnUNetTrainer(plans, "3d_fullres", "all", dataset, device=torch.device("cpu"))
        trainer.on_train_start()
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
    torch.set_num_threads(arguments.threads)
    facts = {
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in trainer.network.parameters()),
        "precision": "float32",
        "network": configuration["architecture"]["network_class_name"].rpartition(".")[2],
    }
    loader = trainer.dataloader_train
    if arguments.augmentation_only:
        assert isinstance(loader, SingleThreadedAugmenter)
    print(json.dumps(facts), flush=True)
    while True:
        batch = next(loader)
        if not arguments.augmentation_only:
            trainer.train_step(batch)
        print("step", flush=True)


if __name__ == "__main__":
    main()
