class Tokenizer:
    def __init__(self, info):
        from transformers import AutoTokenizer
        self.t = AutoTokenizer.from_pretrained(info["path"]); self.eos_id=info["eos_id"]; self.vocab_size=info["vocab_size"]
    def encode(self,t): return self.t.encode(t,add_special_tokens=False)
    def encode_batch(self,ts): return [self.encode(t) for t in ts]
    def decode(self,ids): return self.t.decode(ids)
def load_tokenizer(info): return Tokenizer(info)
def nemo_tokenizer(info): return "nemo.collections.common.tokenizers.AutoTokenizer", {"pretrained_model_name": info["path"], "use_fast": True}
