"""A WordPiece vocabulary that is learned from a corpus and is the same for the same text on every machine.

The library `tokenizers` learns the merges. By itself it numbers the letters that continue a word in the order of a hash
table, which differs between processes, and breaks ties by these numbers. The alphabet is therefore counted, sorted and
numbered here first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from bertft.errors import OptionError

PAD, UNKNOWN, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
CONTINUES = "##"
ALPHABET = 1000
"""The most characters of the alphabet, the most frequent ones; a word with any other character is unknown."""
MIN_COUNT = 2
"""Subwords that occur less often are not learned."""


def train_wordpiece(texts: Sequence[str], size: int, *, cased: bool = False) -> PreTrainedTokenizerFast:
    """Learn a BERT tokenizer of at most `size` subwords, or fewer if the texts do not have as many that occur twice.

    Like that of BERT, it cleans texts, lower-cases them and strips accents (`cased` keeps both), and splits them at
    white space and punctuation. Raises `OptionError` if `size` is smaller than the alphabet of the texts.

    >>> tokenizer = train_wordpiece(["the cat sat on the mat", "the rat sat"], 60)
    >>> tokenizer.tokenize("The cat sat")
    ['the', 'c', '##at', 'sat']

    Source: Devlin et al. 2019; Wu et al. 2016.
    """
    tokenizer = _untrained({}, cased)
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(tokenizer.normalizer.normalize_str(text))
    letters = sorted((char for char in counts if not char.isspace()), key=lambda char: (-counts[char], char))
    alphabet = sorted(letters[:ALPHABET])
    # As special tokens, they are numbered in the order of the list.
    numbered = [*SPECIAL, *alphabet, *(CONTINUES + letter for letter in alphabet)]
    if size < len(numbered):
        raise OptionError(
            f"a vocabulary of {size} does not hold the {len(alphabet)} characters of the text, each at the start of a "
            f"word and within one; give at least {len(numbered)}"
        )
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=MIN_COUNT,
        special_tokens=numbered,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=CONTINUES,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer, length=len(texts))
    # Build it again, since in the trained one every letter is a special token.
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=_untrained(tokenizer.get_vocab(), cased),
        pad_token=PAD,
        unk_token=UNKNOWN,
        cls_token=CLS,
        sep_token=SEP,
        mask_token=MASK,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        clean_up_tokenization_spaces=False,
    )


def _untrained(vocabulary: dict[str, int], cased: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token=UNKNOWN, continuing_subword_prefix=CONTINUES))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=not cased)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=CONTINUES)
    if vocabulary:
        tokenizer.post_processor = processors.BertProcessing((SEP, vocabulary[SEP]), (CLS, vocabulary[CLS]))
    return tokenizer
