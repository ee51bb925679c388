from nemo_demix.datasets.tokenizer import Tokenizer, load_tokenizer, nemo_tokenizer
