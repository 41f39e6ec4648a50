"""What does the captioner say about a photo, and where does each word come from?"""

from importlib.resources import files

from multicam.tasks import captioning

photo = str(files("multicam") / "photos" / "astronaut.jpg")
task = captioning.load()  # or load("hf:Salesforce/blip-image-captioning-base")

said = task.explain(photo)  # the captioner's own words, and last the whole caption
for word, note in zip(said.labels[0], said.notes[0], strict=True):
    print(f"{word}: {note}")
said.figure().savefig("caption.png")

told = task.explain(photo, "a smiling woman in an orange suit", words=["smiling woman", "suit"])
told.figure().savefig("phrases.png")

# "woman" is one word for her; the concept asks where anybody is.
woman = task.explain(photo, "a smiling woman", words="woman")
person = task.concept("man", "person", "girl", "lady")
anyone = task.explain(photo, "a smiling woman", words="woman", target=person)
anyone.figure().savefig("person.png")
