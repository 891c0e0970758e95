"""A ResNet on CIFAR-10 by DistributedDataParallel: cifar_ddp.py FOLDER [EPOCHS], on as many ranks as it is started."""

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

FOLDER, EPOCHS = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 10


def cifar10(*files):
    rows = np.concatenate([np.fromfile(f"{FOLDER}/{file}.bin", np.uint8).reshape(-1, 3073) for file in files])
    images = torch.from_numpy(rows[:, 1:].reshape(-1, 3, 32, 32)).float() / 127.5 - 1
    return TensorDataset(images, torch.from_numpy(rows[:, 0]).long())


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        self.skip = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x):
        return torch.relu(self.body(x) + self.skip(x))


def network():
    layers = [Block(16, 16, 1), Block(16, 32, 2), Block(32, 64, 2)]
    return nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1), *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


dist.init_process_group("gloo")
train, test = cifar10(*(f"data_batch_{i}" for i in range(1, 6))), cifar10("test_batch")
sampler = DistributedSampler(train)
loader = DataLoader(train, batch_size=32, sampler=sampler, drop_last=True)
model = network()
parallel = DistributedDataParallel(model)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
for epoch in range(EPOCHS):
    sampler.set_epoch(epoch)
    model.train()
    for images, labels in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(parallel(images), labels)
        loss.backward()
        optimizer.step()
    schedule.step()
    model.eval()
    if dist.get_rank() == 0:
        with torch.no_grad():
            hits = sum((model(images).argmax(1) == labels).sum().item() for images, labels in DataLoader(test, 500))
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}, test accuracy {hits / len(test):.3f}", flush=True)
