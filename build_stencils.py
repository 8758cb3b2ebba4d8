import sys
from pathlib import Path
from cnp.build import toolchain
from cnp.build.driver import Job, build
from cnp import targets
t=targets.get(sys.argv[1]); src=Path(sys.argv[2])
data=build(Job(src,t,toolchain.find(),Path('/tmp/w/keep-'+t.name+'-'+src.stem)))
Path(f'/tmp/w/{src.stem}.{t.name}.cnp').write_bytes(data)
from cnp.library import Library
import time
t0=time.perf_counter(); l=Library(data); print(len(data), len(l.operations), (time.perf_counter()-t0)*1e3,'ms')
if len(sys.argv)>3:
    for o in l.operations:
        op=l[o]
        for f in op.forms:
            print(o,[(a.kind,a.low,a.high,a.align) for a in f.accepts],[(b.code.hex(),[(h.offset,h.field,h.what.name,h.index,h.addend) for h in b.holes],b.tail) for b in f.near.blocks], bool(f.far))
