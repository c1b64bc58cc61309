"""What goes over the wire: DDS endpoints and the messages of ROS 2 and Unitree robots."""
