"""A baseline as people write them: torchvision's ResNet-18, its own data and loaders, torchmetrics, Lightning only."""

import torch
import torchvision
from lightning.pytorch import LightningModule
from torch.nn import functional
from torch.utils.data import DataLoader, random_split
from torchmetrics.classification import MulticlassAccuracy
from torchvision import transforms


class Baseline(LightningModule):
    def __init__(self, lr=1e-3, mbatch_size=16, num_workers=0, images=160, size=16, **kwargs):
        super().__init__()
        self.save_hyperparameters()
        self.network = self.make_network()
        self.train_acc = MulticlassAccuracy(num_classes=10)
        self.val_acc = MulticlassAccuracy(num_classes=10)
        self.test_acc = MulticlassAccuracy(num_classes=10)

    def make_network(self):
        return torchvision.models.resnet18(num_classes=10)

    def setup(self, stage=None):
        augmented = transforms.Compose([transforms.RandomHorizontalFlip(), transforms.ToTensor()])
        shape = (3, self.hparams.size, self.hparams.size)
        whole = torchvision.datasets.FakeData(self.hparams.images, shape, 10, augmented)
        self.train_set, self.val_set = random_split(whole, [0.75, 0.25])
        self.test_set = torchvision.datasets.FakeData(32, shape, 10, transforms.ToTensor(), random_offset=7)

    def train_dataloader(self):
        return DataLoader(self.train_set, self.hparams.mbatch_size, shuffle=True, num_workers=self.hparams.num_workers)

    def val_dataloader(self):
        return DataLoader(self.val_set, self.hparams.mbatch_size)

    def test_dataloader(self):
        return DataLoader(self.test_set, self.hparams.mbatch_size)

    def training_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.network(images)
        loss = functional.cross_entropy(logits, labels)
        self.train_acc(logits, labels)
        self.log_dict({"train_loss": loss, "train_acc": self.train_acc}, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch, batch_idx):
        images, labels = batch
        logits = self.network(images)
        self.val_acc(logits, labels)
        self.log_dict({"val_loss": functional.cross_entropy(logits, labels), "val_acc": self.val_acc})

    def test_step(self, batch, batch_idx):
        images, labels = batch
        self.test_acc(self.network(images), labels)
        self.log("test_acc", self.test_acc)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.parameters(), lr=self.hparams.lr)
        return {"optimizer": optimizer, "lr_scheduler": torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)}


class Small(Baseline):
    """The same with a network that learns in a second."""

    def make_network(self):
        return torch.nn.Sequential(
            torch.nn.Conv2d(3, 8, 3, stride=2),
            torch.nn.BatchNorm2d(8),
            torch.nn.ReLU(),
            torch.nn.Flatten(),
            torch.nn.Dropout(0.2),
            torch.nn.LazyLinear(10) if self.hparams.get("lazy") else torch.nn.Linear(8 * 7 * 7, 10),
        )


class RaisesAtOnce(Small):
    def __init__(self, **kwargs):
        raise RuntimeError("no such data set here")


class RaisesInAStep(Small):
    def training_step(self, batch, batch_idx):
        raise KeyError("images")


class WithoutAStep(Small):
    training_step = None


class WithoutLoader(Small):
    def train_dataloader(self):
        return None


class Endless(Small):
    def train_dataloader(self):
        class Stream(torch.utils.data.IterableDataset):
            def __iter__(self):
                while True:
                    yield torch.rand(3, 16, 16), 0

        return DataLoader(Stream(), 4)


class KeepsAnObject(Small):
    """Keeps something in its checkpoints that only a pickle can hold."""

    def on_save_checkpoint(self, checkpoint):
        checkpoint["transform"] = transforms.ToTensor()
