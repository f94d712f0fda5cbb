import json

text = json.dumps({"rows": [{"id": i, "name": f"n{i}", "values": [i, i / 7, None, True], "text": "é\n\"" * 3} for i in range(400)]})
for _ in range(12):
    data = json.loads(text)
    text = json.dumps(data, sort_keys=True)
print(len(text), data["rows"][399]["values"])
