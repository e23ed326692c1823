import sys, squall

app = squall.App("hello")
image = squall.Image.debian_slim().apt_install("jq").pip_install("numpy")


@app.function(image=image)
def f(i):
    import numpy

    print("hello" if i % 2 == 0 else "world", file=sys.stdout if i % 2 == 0 else sys.stderr)
    return int(numpy.square(i))


@app.local_entrypoint()
def main(n: int = 20):
    print(f.local(1000))
    print(f.remote(1000))
    print(sum(f.map(range(n))))
