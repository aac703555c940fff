from . import isa as isa
