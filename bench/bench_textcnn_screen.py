"""Accuracy and speed of the screened head on a trained bundle: python bench/bench_textcnn_screen.py FOLDER (shop/ and bundle/ inside)."""
from __future__ import annotations

import sys
import time

import numpy as np
from pathlib import Path
from aitems_engine import Engine
from aitems_engine.catalog.products import read_products
from aitems_engine.runtime import NativeScorer, read_safetensors
from aitems_engine.training import screen as S
F=Path(sys.argv[1])
p=read_products(F/"shop/products.parquet"); t=read_products(F/"shop/truth.parquet",columns={"category":"true_category"},require=("category",))
n=len(p.title); test=np.arange(int(n*.8),n)
e=Engine.open(F/"bundle",mode="exact"); print(len(e.labels))
pos={l:i for i,l in enumerate(e.labels)}
truth=np.array([pos.get(str(c),-1) for c in t.category])[test]
c=e._classifier
fitrows=np.random.default_rng(0).permutation(int(n*.8))[:8192]
inp_fit=c.prepare([p.title[i] for i in fitrows],[p.mall_category[i] for i in fitrows])
inp=c.prepare([p.title[i] for i in test],[p.mall_category[i] for i in test])
tens=dict(read_safetensors(F/"bundle/model.safetensors"))
print({k:v.shape for k,v in tens.items()})
plain=NativeScorer(tens,mode="int8"); a5=plain.score(inp,5); ex=c.scorer.score(inp,5)
allp=c.scorer
print("exact acc",(ex[0][:,0]==truth).mean(),"int8",(a5[0][:,0]==truth).mean(), "top1 int8==exact",(ex[0][:,0]==a5[0][:,0]).mean())
for R in (48, 64, 96, 128, 192):
    S.RANK=R
    b=time.time(); st=S.screen_tensors(tens,inp_fit); 
    sc=NativeScorer({**tens,**st},mode="int8")
    got=sc.score(inp,5)
    same=(got[0][:,0]==a5[0][:,0]).mean(); five=np.mean([len(set(x)&set(y))/5 for x,y in zip(got[0],a5[0])])
    d=np.abs(got[1][:,0]-a5[1][:,0])
    print(R,f"fit {time.time()-b:.1f}s acc {(got[0][:,0]==truth).mean():.4f} top1 same {same:.4f} five found {five:.4f} prob diff p99 {np.quantile(d,.99):.4f} max {d.max():.3f}")
    ts={}
    for r in range(3):
        for nm,s_ in (("plain",plain),("screen",sc)):
            q=time.thread_time(); s_.score(inp,5); ts.setdefault(nm,[]).append(time.thread_time()-q)
    print("  speed",{k:f"{len(test)/np.median(v):,.0f}" for k,v in ts.items()})
