"""UniMatch: two strong views and a stream of perturbed features learn what the student says of the weak view."""

import torch
from test_methods import RAMPED, a_batch, build, decided, inputs_of


def test_the_perturbation_touches_the_features_of_the_weak_stream_alone():
    method = decided(build("unimatch"))
    batch = a_batch(method, labelled=3)
    images, features = inputs_of(method.network), []
    hook = method.network.decoder.register_forward_pre_hook(lambda _, args: features.append(args[0]))
    list(method.turns(batch, RAMPED))
    hook.remove()
    assert torch.equal(images[0], torch.cat([batch.images, batch.weak, *batch.strong]))
    assert torch.equal(images[1], batch.weak)
    for seen, plain in zip(features[0], method.network.encode(images[0]), strict=True):
        assert torch.equal(seen[:3], plain[:3])
        assert torch.equal(seen[5:], plain[5:])
        weak, before = seen[3:5].flatten(2), plain[3:5].flatten(2)
        dropped = (weak == 0).all(2)
        torch.testing.assert_close(weak, torch.where(dropped[..., None], 0.0, 2 * before))
    shares = [(level[3:5].flatten(2) == 0).all(2).float().mean() for level in features[0]]
    assert 0.2 < torch.stack(shares).mean() < 0.8
    for seen, plain in zip(features[1], method.network.encode(batch.weak), strict=True):
        assert torch.equal(seen, plain)  # what is believed is the answer of the whole network


def test_half_of_the_unlabelled_loss_is_of_strong_views_and_half_of_features():
    method = decided(build("unimatch", unlabelled_weight=0.6, confidence=0.8))
    batch = a_batch(method, labelled=3)
    outputs = []
    method.network.register_forward_hook(lambda _, args, output: outputs.append(output))
    ((_, losses),) = method.turns(batch, RAMPED)
    task = method.task
    p = method.network(batch.weak)[0].detach().softmax(1)
    answer = torch.where(p.amax(1) >= 0.8, p.argmax(1), 255).to(torch.uint8)
    assert 0.02 < (answer == 255).float().mean() < 0.98

    def rows(start, end):
        return [logits[start:end] for logits in outputs[0]]

    expected = task.loss(method.network(batch.images), task.encode(batch.labels))
    strong = task.loss(
        [torch.cat(pair) for pair in zip(*(method.network(view) for view in batch.strong), strict=True)],
        task.encode(torch.cat([answer, answer])),
    )
    features = task.loss(rows(3, 5), task.encode(answer))
    expected |= {f"unlabelled {key}": 0.3 * value for key, value in strong.items()}
    expected |= {f"unlabelled features {key}": 0.3 * value for key, value in features.items()}
    assert losses.keys() == expected.keys()
    for key, value in losses.items():
        torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
