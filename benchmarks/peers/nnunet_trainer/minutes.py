"""An nnU-Net trainer that ends when its time is over; found by nnU-Net through nnUNet_extTrainer.

Everything is ``nnUNetTrainer``'s but for: the length of training, which is a deadline; an epoch, which is 10 steps
and one step of validation, because 250 steps take longer on a few cores than the whole budget; the seed; the number
of threads, which ``nnUNetv2_train`` sets to the machine's; and the prediction of the training cases at the end, which
is left out. The learning rate is nnU-Net's own: polynomial over the epochs, whose number is told from the time that
the epochs took so far.
"""

import json
import os
import random
import time
from pathlib import Path

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

RESERVE = 3.0  # seconds, for the last checkpoint


def processor_seconds() -> float:
    return time.process_time() / int(os.environ["PEER_THREADS"])


class nnUNetTrainerMinutes(nnUNetTrainer):
    def __init__(self, plans: dict, configuration: str, fold: str, dataset_json: dict, device: torch.device) -> None:
        seed = int(os.environ["PEER_SEED"])
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        torch.set_num_threads(int(os.environ["PEER_THREADS"]))
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_iterations_per_epoch = 10
        self.num_val_iterations_per_epoch = 1
        self.seconds = 0.0  # that the epochs took

    def run_training(self) -> None:
        deadline = float(os.environ["PEER_DEADLINE"]) - RESERVE
        now = processor_seconds if os.environ["PEER_CLOCK"] == "processor" else time.time
        self.num_epochs = 2  # until one was measured
        self.on_train_start()
        while self.current_epoch < self.num_epochs:
            started = now()
            self.lr_scheduler.max_steps = self.num_epochs
            self._epoch()
            self.seconds += now() - started
            further = (deadline - now()) / (self.seconds / self.current_epoch)
            self.num_epochs = self.current_epoch + max(int(further), 0)
        steps = self.current_epoch * self.num_iterations_per_epoch
        Path(os.environ["PEER_FACTS"]).write_text(json.dumps({"steps": steps}), encoding="utf-8")
        self.on_train_end()

    def _epoch(self) -> None:
        """The body of ``nnUNetTrainer.run_training``; ``on_epoch_end`` counts the epoch."""
        self.on_epoch_start()
        self.on_train_epoch_start()
        steps = range(self.num_iterations_per_epoch)
        self.on_train_epoch_end([self.train_step(next(self.dataloader_train)) for _ in steps])
        with torch.no_grad():
            self.on_validation_epoch_start()
            self.on_validation_epoch_end([self.validation_step(next(self.dataloader_val))])
        self.on_epoch_end()

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        pass
