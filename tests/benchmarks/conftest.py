"""Saved timings say what decides them, and not whose machine it was."""

import torch


def pytest_benchmark_update_machine_info(config, machine_info):
    for private in ("node", "release"):
        machine_info.pop(private, None)
    machine_info |= {"torch": torch.__version__, "threads": torch.get_num_threads()}
