"""What does the model answer to a question, and what in photo and question gave the answer?"""

from importlib.resources import files

from multicam.tasks import vqa

photo = str(files("multicam") / "photos" / "cat.jpg")
task = vqa.load()  # or load("hf:dandelin/vilt-b32-finetuned-vqa")

asked = "what animal is this?"
found = task.explain(photo, asked, contrast=("cat", "dog"))
for answer, note in zip(found.labels[0], found.notes[0], strict=True):
    print(f"{answer}: {note}")

words = task.words(photo, asked, contrast=("cat", "dog"))
found.figure(words=words).savefig("animal.png")

given = task.explain(photo, "is there a dog in the photo?", ["yes", "no"])
given.figure(style="signed").savefig("yes_or_no.png")
