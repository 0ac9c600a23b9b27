"""What each pretext task hides, predicts and is judged by, in the field's terms, with its papers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Paper:
    """A reference."""

    text: str
    link: str


@dataclass(frozen=True)
class Words:
    """A pretext task in words: the five steps, what to look for, and where to read more."""

    modality: str
    task: str
    perturb: str
    encode: str
    predict: str
    target: str
    score: str
    """The loss, and the guess without knowledge of the sample that skill compares it with."""
    look: str
    """How to read its pictures, texts or sounds."""
    why: str
    """Why it hides as much as it does."""
    validated: str
    papers: tuple[Paper, ...] = ()


def _arxiv(text: str, number: str) -> Paper:
    return Paper(text, f"https://arxiv.org/abs/{number}")


_PIXELS = (
    "A row a picture: as it is, what the network saw, and then, as the columns say, guesses and what was predicted."
)
OWN_FRACTION = "Validated at its own mask fraction: the curve says how hard the task is, not what was learned."

WORDS = {
    "masked_autoencoder": Words(
        "images", "masked autoencoder",
        "hide patches of the picture", "a Transformer over the visible patches only",
        "a small decoder puts mask tokens where patches were", "the pixels of the hidden patches",
        "squared error; beside it that of the mean colour",
        "From left to right: the picture, what the network saw, what it predicted, and both together.",
        "A patch is much like its neighbours. With few patches hidden, smooth interpolation solves the task; only when "
        "most are gone must the network know about objects.",
        OWN_FRACTION,
        (_arxiv("He et al. 2022, Masked Autoencoders Are Scalable Vision Learners", "2111.06377"),),
    ),
    "masked_language_model": Words(
        "text", "masked language model (BERT)",
        "replace tokens by [MASK]", "a Transformer over all positions",
        "a softmax over the vocabulary at each hidden position", "the tokens that stood there",
        "cross-entropy; beside it that of token frequencies",
        "Each coloured word was hidden. Green: the first guess is right. Yellow: one of the first five. Red: missed. "
        "The guesses and their probabilities stand below.",
        "Words carry much information each, and little can be interpolated. Hide too many and no context is left to "
        "predict from; hide too few and little is learned a step.",
        "Validated on the same masks whatever was hidden in training, so the skills compare.",
        (_arxiv("Devlin et al. 2019, BERT", "1810.04805"),
         _arxiv("Wettig et al. 2023, Should You Mask 15% in Masked Language Modeling?", "2202.08005")),
    ),
    "best_rq": Words(
        "speech", "BEST-RQ",
        "hide spans of time in the spectrogram", "a Transformer over all steps",
        "a softmax over each codebook at each hidden step", "codes of a random projection, drawn once, never trained",
        "cross-entropy; beside it that of the codes' frequencies",
        "Blue marks what was hidden. Below: the true codes, the predicted ones, and how many codebooks were right. "
        "Listen to what was left.",
        "Neighbouring steps sound alike. Hidden singly they can be interpolated; spans as long as a phone have to be "
        "inferred from what is said around them.",
        "Validated on the same spans whatever was hidden in training, so the skills compare.",
        (_arxiv("Chiu et al. 2022, Self-supervised Learning with Random-projection Quantizer", "2202.01855"),),
    ),
    "wav2vec2": Words(
        "speech", "wav2vec 2.0",
        "hide spans of latent steps", "a Transformer over all steps",
        "a vector at each hidden step, compared by cosine", "a code that the network learns to make of the step itself",
        "contrastive loss; beside it chance among the candidates",
        "Blue marks what was hidden. A bar a hidden step: green, no other moment fitted better; yellow, few did; red, "
        "many. Listen to what was left.",
        "Neighbouring steps sound alike. Hidden singly they can be interpolated; spans as long as a phone have to be "
        "inferred from what is said around them.",
        "Validated on the same spans whatever was hidden in training, so the skills compare.",
        (_arxiv("Baevski et al. 2020, wav2vec 2.0", "2006.11477"),),
    ),
    "audio_visual_sync": Words(
        "video", "audio-visual synchronisation",
        "hide the pairing: which sound belongs to this moment", "one encoder for what is seen, one for what is heard",
        "a score for each candidate moment", "the moment that was recorded together",
        "contrastive loss; beside it chance among the candidates",
        "In each row a frame, how well every moment seen fits every moment heard (what belongs together lies on the "
        "diagonal), and the mean agreement by shift, whose peak should stand at zero.",
        "Other moments of the same clip have the same voice and face: only timing tells them apart. Moments of other "
        "clips are easier.",
        "Validated on the same clips and candidates every time.",
        (_arxiv("Chung et al. 2019, Perfect Match", "1809.08001"),
         _arxiv("Kadandale et al. 2022, VocaLiST", "2204.02090")),
    ),
    "audio_visual_masked": Words(
        "video", "masked prediction of sight and sound",
        "hide blocks of the picture over time, spans of sound, or a whole sense", "one Transformer over both senses",
        "a decoder at each hidden position", "pixels and spectrogram there",
        "squared error; beside it that of the mean",
        "From top to bottom: the original, what was visible, what was predicted from both senses, and from the other "
        "sense alone.",
        "What one sense does not show, the other may tell: lips show when a sound begins, a voice tells that a mouth "
        "moves.",
        OWN_FRACTION,
        (_arxiv("Tong et al. 2022, VideoMAE", "2203.12602"), _arxiv("Shi et al. 2022, AV-HuBERT", "2201.02184")),
    ),
    "colorization": Words(
        "images", "colorization",
        "take the colour away", "a network over the grey picture", "a colour distribution at each pixel",
        "the colours that were there", "cross-entropy; beside it that of the colours' frequencies",
        _PIXELS,
        "A colour cannot be interpolated from grey: one has to know what things are.",
        "Validated on the same crops every time.",
        (_arxiv("Zhang et al. 2016, Colorful Image Colorization", "1603.08511"),),
    ),
    "inpainting": Words(
        "images", "inpainting",
        "cut a hole of any shape", "a network over the picture and its hole", "pixels inside the hole",
        "the pixels that were there", "absolute error; beside it that of smooth filling",
        _PIXELS,
        "Small holes can be filled smoothly; large ones need knowledge of what goes on there.",
        "Validated on the same holes every time.",
        (_arxiv("Pathak et al. 2016, Context Encoders", "1604.07379"),),
    ),
    "super_resolution": Words(
        "images", "super-resolution",
        "shrink the picture", "a network over the small picture", "the detail that is missing",
        "the full resolution", "absolute error; beside it that of bicubic interpolation",
        _PIXELS,
        "Interpolation restores what is smooth; edges and texture have to be known.",
        "Validated on the same crops every time.",
        (_arxiv("Shi et al. 2016, sub-pixel convolution", "1609.05158"),
         _arxiv("Kim et al. 2016, Very Deep Convolutional Networks", "1511.04587")),
    ),
    "restoration": Words(
        "images", "restoration",
        "spoil the picture: blur, noise, shrink, grey, hide", "a network over the spoiled picture", "the clean picture",
        "the picture as it was", "absolute error; beside it that of undoing without learning",
        _PIXELS,
        "Much can be undone by a filter; skill counts what goes beyond it.",
        "Validated on the same crops every time.",
    ),
}  # fmt: skip
"""By name of the predictor."""

UNKNOWN = Words(
    "other", "a predictor that this version does not know",
    "hide a part", "represent the rest", "predict the hidden part", "what was hidden",
    "a loss; beside it that of a guess that knows nothing of the sample",
    "What was hidden, what was predicted, and what was true.", "", "",
)  # fmt: skip

BASELINES = {
    "interpolation": "smooth interpolation of visible pixels",
    "repeat": "the nearest visible step's code again",
    "neighbours": "counted pairs of neighbouring tokens",
}
"""Guesses that use the sample but learn nothing beyond counting, by the name that journals give them."""


def words_of(kind: str) -> Words:
    """By name of the predictor; general ones for a name that this version does not know."""
    return WORDS.get(kind, UNKNOWN)
