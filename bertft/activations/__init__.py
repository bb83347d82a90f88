"""From texts to hidden states: tokenise once, draw the tokens once, batch by length, read several models together."""
