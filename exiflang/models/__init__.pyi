from .config import ExifLangConfig as ExifLangConfig
from .inference import for_inference as for_inference
from .model import ExifLang as ExifLang
from .tokenizer import train_tokenizer as train_tokenizer
from .trace_resnet import TraceResNet as TraceResNet
from .trace_resnet import TraceResNetConfig as TraceResNetConfig
from .weights import load_model as load_model
from .weights import packaged_model as packaged_model
