"""The page of `multicam serve` as a Hugging Face Space."""

from multicam.web.serving import serve

serve(host="0.0.0.0", port=7860)
