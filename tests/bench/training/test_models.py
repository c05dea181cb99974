import pytest
import timm
import torch
from safetensors.torch import save_file

from bench.errors import BenchError
from bench.suites.schema import Recipe
from bench.training.models import make_embedder

RECIPE = Recipe(backbone="test_resnet", image_size=32, width=8)


@pytest.fixture
def trained():
    """A whole classifier, as pretrained weights come."""
    torch.manual_seed(5)
    return timm.create_model("test_resnet", num_classes=10)


def with_weights(path):
    return make_embedder(RECIPE.model_copy(update={"weights": path}), 0)


@pytest.mark.parametrize("kind", ["safetensors", "torch", "checkpoint"])
def test_weights_of_a_file_are_those_the_backbone_starts_from(trained, tmp_path, kind):
    state = trained.state_dict()
    path = tmp_path / ("weights.safetensors" if kind == "safetensors" else "weights.pth")
    if kind == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state} if kind == "checkpoint" else state, path)
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        expected = trained.eval().forward_features(images)
        found = with_weights(path).backbone.eval().forward_features(images)
        other = make_embedder(RECIPE, 0).backbone.eval().forward_features(images)
    torch.testing.assert_close(found, expected)
    assert not torch.allclose(other, expected)


class Hostile:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


def test_a_file_of_weights_cannot_run_code(tmp_path):
    torch.save({"state_dict": Hostile()}, tmp_path / "weights.pth")
    with pytest.raises(BenchError, match=r"weights\.pth cannot be read .*tensors alone"):
        with_weights(tmp_path / "weights.pth")


def test_weights_that_do_not_fit_are_named(trained, tmp_path):
    state = trained.state_dict()
    first = next(iter(state))
    torch.save({name: value for name, value in state.items() if name != first}, tmp_path / "w.pth")
    with pytest.raises(BenchError, match=rf"do not fit backbone 'test_resnet': 1 of .*'{first}'"):
        with_weights(tmp_path / "w.pth")
    with pytest.raises(BenchError, match=r"gone\.pth are not there"):
        with_weights(tmp_path / "gone.pth")


def test_a_missing_network_is_said_in_a_sentence(monkeypatch):
    create = timm.create_model

    def offline(name, pretrained, **options):
        if pretrained:
            raise OSError("no route to host")
        return create(name, pretrained=pretrained, **options)

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        BenchError, match=r"could not get the pretrained weights of 'test_resnet'.*"
    ):
        make_embedder(RECIPE.model_copy(update={"pretrained": True}), 0)
    make_embedder(RECIPE.model_copy(update={"pretrained": True}).from_scratch(), 0)


def test_reduced_precision_stays_inside_the_backbone():
    images = torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    exact = make_embedder(RECIPE, 0).eval()
    reduced = make_embedder(RECIPE.model_copy(update={"precision": "bfloat16"}), 0).eval()
    for one, other in zip(exact.parameters(), reduced.parameters(), strict=True):
        assert torch.equal(one, other)
        assert other.dtype == torch.float32
    with torch.inference_mode():
        wanted, found = exact(images), reduced(images)
    assert found.dtype == torch.float32
    assert not torch.equal(wanted, found)
    torch.testing.assert_close(found.norm(dim=1), torch.ones(8))
    assert (wanted * found).sum(1).min() > 0.999


def gradient(left_in_memory):
    """Gradient of a kernel over one pixel, when all that was freed before holds one value."""
    torch.manual_seed(0)
    recipe = RECIPE.model_copy(update={"precision": "bfloat16", "image_size": 16})
    kernel = make_embedder(recipe, 0).backbone.layer4[0].conv1
    features = torch.randn(16, 192, 1, 1).contiguous(memory_format=torch.channels_last)

    def litter():
        sizes = (1000, 20_000, 41_472, 82_944, 165_888, 331_776, 1_000_000)
        [torch.full((size,), left_in_memory) for size in sizes for _ in range(6)]

    with torch.autocast("cpu", torch.bfloat16):
        found = kernel(features.requires_grad_())
    wanted = torch.randn(found.shape)
    litter()
    found.backward(wanted.to(found.dtype))
    return kernel.weight.grad


def test_gradients_do_not_depend_on_what_lay_in_memory():
    assert torch.equal(gradient(0.0), gradient(3.0))


def test_only_kernels_that_hang_over_their_input_stay_exact():
    def exact(size):
        recipe = RECIPE.model_copy(update={"precision": "bfloat16", "image_size": size})
        parts = make_embedder(recipe, 0).backbone.named_modules()
        return [name for name, part in parts if "forward" in vars(part)]

    assert exact(48) == []
    assert "layer4.0.conv1" in exact(16)
