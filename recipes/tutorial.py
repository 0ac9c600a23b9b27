# %% [markdown]
# # Perturb the data, predict it back: the five steps on pictures
#
# Every pretext task of `mmssl` does the same five things. Here they are done one by one with a masked autoencoder (He
# et al. 2022, "Masked Autoencoders Are Scalable Vision Learners"), and then what it learned is measured. Run the cells
# in a notebook (`jupytext --to ipynb tutorial.py`, or an editor that knows `# %%`), or all at once: `python
# recipes/tutorial.py`. You need the generated world: `python data_prep/make_world.py --out world`. Three minutes on two
# CPU cores.

# %%
import torch
from matplotlib.figure import Figure

from mmssl.data.images import ImageLoader, centre_crops, open_images
from mmssl.evaluation.image_runs import labelled_images
from mmssl.evaluation.probe_report import print_report, probe_figure
from mmssl.evaluation.probes import probe
from mmssl.evaluation.reveal import reveal_sheet
from mmssl.nn.transformer import TransformerConfig, pico
from mmssl.predictors.base import outcome_of
from mmssl.predictors.masked_autoencoder import MaskedAutoencoder, MaskedAutoencoderConfig

# %% [markdown]
# ## Settings

# %%
DATA, STEPS, BATCH, LABEL = "world", 400, 64, "colour"
SIZE, PATCH, MASK_FRACTION = (64, 64), (8, 8), 0.75

# %% [markdown]
# ## Data, and a network that has learned nothing

# %%
torch.manual_seed(0)
pictures = ImageLoader(open_images(DATA, split="train"), size=SIZE, batch_size=BATCH, seed=0)
mean, std = (tuple(values.tolist()) for values in pictures.mean_std())
predictor = MaskedAutoencoder(
    MaskedAutoencoderConfig(
        image_size=SIZE, patch_size=PATCH, mask_fraction=MASK_FRACTION, mean=mean, std=std, encoder=pico(),
        decoder=TransformerConfig(dim=64, depth=1, heads=2, mlp_dim=256),
    )
)  # fmt: skip
held_out = centre_crops(open_images(DATA, split="val"), range(4), SIZE)
reveal_sheet(predictor.reveal(held_out), "Before training.")

# %% [markdown]
# ## Step 1, `perturb`: a part is hidden, and a plan says which
#
# A mask is a function of the seed, the epoch and the picture, and of nothing else: not of its neighbours in the batch.

# %%
batches = pictures.batches(0)
batch = next(batches)
view = predictor.perturb(batch)
print(f"{view['plan'].hidden.float().mean():.0%} of {view['plan'].hidden.shape[1]} patches are hidden")

# %% [markdown]
# ## Steps 2 and 3, `encode` and `predict`: the encoder sees what is left, the decoder says what was hidden

# %%
latent = predictor.encode(view)
prediction = predictor.predict(latent, view)
print(f"encoded: {tuple(latent.shape)}    predicted: {tuple(prediction.shape)}")

# %% [markdown]
# ## Steps 4 and 5, `target` and `score`: the data are the answer
#
# Beside the loss there is always that of a guess that knows nothing of this picture. `skill` is 1 - loss / reference: 0
# is a trivial guess, 1 is perfect.

# %%
first = outcome_of(predictor.score(prediction, predictor.target(batch, view), view))
print({name: round(value.item(), 4) for name, value in first.items()})

# %% [markdown]
# ## Training is these five steps, again and again
#
# `predictor(batch)` does all five. The recipes add what a long run needs: checkpoints, validation, a journal, warnings.

# %%
optimizer = torch.optim.AdamW(predictor.parameters(), lr=1e-3, weight_decay=0.05)
predictor.train()
skills = []
for _ in range(STEPS):
    outcome = predictor(next(batches))
    optimizer.zero_grad()
    outcome["loss"].backward()
    optimizer.step()
    skills.append(outcome["skill"].detach())

# %%
figure = Figure(figsize=(6, 3), layout="constrained")
axes = figure.subplots()
axes.plot(torch.stack(skills).numpy(), color="#1f5f8b", linewidth=1)
axes.axhline(0, color="#888888", linewidth=0.8, linestyle=":")
axes.set_xlabel("step")
axes.set_ylabel("skill on what is hidden")
figure  # noqa: B018 - a notebook shows it

# %% [markdown]
# ## Look: hidden, predicted, true

# %%
predictor.eval()
reveal_sheet(predictor.reveal(held_out), f"After {STEPS} steps.")

# %% [markdown]
# ## Measure: what does the frozen encoder know of a label that it was never told?
#
# Always beside raw pixels and the same network untrained.

# %%
report = probe(
    predictor, *labelled_images(predictor, DATA, LABEL), label=LABEL, seeds=1, finetune_labels=(), by_layer=False
)
print_report(report)
probe_figure(report)
