"""Which places in the photo say "Egyptian cat", and which say "tiger cat"?"""

from importlib.resources import files

from PIL import Image

from multicam.tasks import classification

photo = str(files("multicam") / "photos" / "cat.jpg")
task = classification.load()  # the bundled network; or load("torchvision:resnet50"), ...

explanation = task.explain(photo, ["Egyptian cat", "tiger cat"])

boxes = explanation.boxes(threshold=0.5)[0]  # around what counts half the maximum or more
for label, score, box in zip(explanation.labels[0], explanation.scores[0], boxes, strict=True):
    print(f"{label}: logit {score:.2f}, (left, top, right, bottom) = {box}")

Image.fromarray(explanation.overlay(target=0)).save("egyptian_cat.png")
explanation.figure().savefig("cat.png")
