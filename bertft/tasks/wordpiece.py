"""A WordPiece vocabulary learnt from a corpus, the same for the same text on every machine.

The merges are learnt by the library `tokenizers`. Left alone, it numbers letters that continue a word in the order of
a hash table, which differs from process to process, and breaks ties by those numbers; so the alphabet is counted,
sorted and numbered here first.
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
"""At most so many characters are known, the most frequent; a word with another is unknown as a whole."""
MIN_COUNT = 2
"""Pieces seen less often are not learnt."""


def train_wordpiece(texts: Sequence[str], size: int, *, cased: bool = False) -> PreTrainedTokenizerFast:
    """A BERT tokeniser of at most `size` pieces, fewer where the texts do not hold so many that occur twice.

    It cleans, lower-cases and strips accents as BERT's does (`cased` keeps case and accents), and splits at white space
    and punctuation. Raises `OptionError` where `size` does not hold the texts' alphabet.

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
    # Given as special tokens, pieces are numbered in the order of the list.
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
    # Built anew: in the trained one every letter counts as special.
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
