import hashlib

block, digest = bytes(range(256)) * 256, hashlib.sha256()
for _ in range(400):
    digest.update(block)
print(digest.hexdigest())
